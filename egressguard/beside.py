"""Attempts that a table beside the router's has counted, between one round and the next.

Its counters have a life of their own: the table may be made anew while the router's stays.
"""

from collections.abc import Mapping

from egressguard.core import attempts
from egressguard.core.attempts import Attempts, Baseline, Totals
from egressguard.core.hosts import Host
from egressguard.core.tables import Table
from egressguard.database import Database, changed
from egressguard.enforcement import Enforcement
from egressguard.upkeep import Upkeep


class Beside:
    """The counters of every such table, by its family."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: dict[str, _Counts] = {}

    def attempts(self, enforcement: Enforcement, now_s: float) -> list[Mapping[Host, Attempts]]:
        """What each table has counted since the last call. Raises KernelError, DatabaseError."""
        found = []
        for other in enforcement.beside():
            if other.table.inventory and other.incarnation:
                counts = self._counts.setdefault(other.table.family, _Counts(other.table, self._database))
                found.append(counts.attempts(other, now_s))
        return found

    def unsaved(self) -> dict[str, tuple[str, Baseline]]:
        """The counters that have moved since `saved`, by family, with the life of their table."""
        return {family: (counts.incarnation, changed(counts.saved, counts.baseline))
                for family, counts in self._counts.items() if counts.saved is not counts.baseline}

    def saved(self) -> None:
        """What was unsaved has been recorded."""
        for counts in self._counts.values():
            counts.saved = counts.baseline

    def hosts(self) -> set[Host]:
        """Every host that is counted in one of them."""
        return {host for counts in self._counts.values()
                for host in (*counts.baseline.inventory.values, *counts.baseline.strangers.values)}


class _Counts:
    """One table's counters as they were last seen, and as they were last recorded."""

    def __init__(self, table: Table, database: Database) -> None:
        self.incarnation = ""
        self.baseline = self.saved = Baseline()
        self._table, self._database = table, database
        self._totals: Totals | None = None

    def attempts(self, kept: Upkeep, now_s: float) -> Mapping[Host, Attempts]:
        if kept.incarnation != self.incarnation:
            self.baseline = self.saved = self._database.baseline(kept.incarnation, self._table.family)
            self.incarnation, self._totals = kept.incarnation, None
        totals = kept.kernel.totals()
        if totals == self._totals:
            return {}
        sample = kept.kernel.sample(now_s)
        self._totals = totals  # read before the elements: what came later makes the next round look again
        found = attempts.between(self.baseline, sample)
        self.baseline = attempts.advance(self.baseline, sample)
        return found
