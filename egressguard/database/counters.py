"""The last counters seen of each kernel table, of the one life that they belong to."""

import sqlite3
from typing import TypeVar

from egressguard.core.attempts import Baseline, Counters
from egressguard.core.hosts import Host
from egressguard.core.ruleset import FAMILY
from egressguard.database.file import File

K = TypeVar("K")


class LastCounters(File):
    """The baselines: of the router's table, and of those beside it by family."""

    def baseline(self, incarnation: str, family: str = FAMILY) -> Baseline:
        """The last counters seen of the kernel table `incarnation`; empty if another one was stored."""
        if self.meta(_incarnation_key(family)) != incarnation:
            return Baseline()
        with self._translated():
            if family == FAMILY:
                counters = self._db.execute("SELECT host, kind, count, at_s FROM counter").fetchall()
                pairs = self._db.execute("SELECT host, address, count, at_s FROM destination").fetchall()
            else:
                counters = self._db.execute("SELECT host, kind, count, at_s FROM beside_counter"
                                            " WHERE family = ?", (family,)).fetchall()
                pairs = self._db.execute("SELECT host, address, count, at_s FROM beside_destination"
                                         " WHERE family = ?", (family,)).fetchall()
        inventory, strangers = ([(Host(host), n, at_s) for host, kind, n, at_s in counters if kind == which]
                                for which in ("inventory", "stranger"))
        return Baseline(_counters(inventory), _counters(strangers), _counters(
            [((Host(host), address), count, at_s) for host, address, count, at_s in pairs]))

    @staticmethod
    def _put_counters(db: sqlite3.Connection, moved: Baseline) -> None:
        for kind, counters in (("inventory", moved.inventory), ("stranger", moved.strangers)):
            db.executemany("INSERT OR REPLACE INTO counter VALUES (?, ?, ?, ?)",
                           ((host, kind, n, counters.seen_s(host)) for host, n in counters.values.items()))
        db.executemany("INSERT OR REPLACE INTO destination VALUES (?, ?, ?, ?)", (
            (*pair, n, moved.destinations.seen_s(pair)) for pair, n in moved.destinations.values.items()))

    def _put_beside(self, db: sqlite3.Connection, family: str, incarnation: str, moved: Baseline) -> None:
        if self.meta(_incarnation_key(family)) != incarnation:
            db.execute("DELETE FROM beside_counter WHERE family = ?", (family,))
            db.execute("DELETE FROM beside_destination WHERE family = ?", (family,))
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_incarnation_key(family), incarnation))
        for kind, counters in (("inventory", moved.inventory), ("stranger", moved.strangers)):
            db.executemany("INSERT OR REPLACE INTO beside_counter VALUES (?, ?, ?, ?, ?)",
                           ((family, host, kind, n, counters.seen_s(host))
                            for host, n in counters.values.items()))
        pairs = moved.destinations
        db.executemany("INSERT OR REPLACE INTO beside_destination VALUES (?, ?, ?, ?, ?)",
                       ((family, *pair, n, pairs.seen_s(pair)) for pair, n in pairs.values.items()))


def _incarnation_key(family: str) -> str:
    return "incarnation" if family == FAMILY else f"incarnation {family}"


def changed(saved: Baseline, now: Baseline) -> Baseline:
    """`now` without the counters that stand as they stood in `saved`."""
    return Baseline(_moved(saved.inventory, now.inventory), _moved(saved.strangers, now.strangers),
                    _moved(saved.destinations, now.destinations))


def _moved(old: Counters[K], new: Counters[K]) -> Counters[K]:
    before = old.values
    return Counters({key: n for key, n in new.values.items() if before.get(key) != n}, new.at_s, new.absent)


def _counters(rows: list[tuple[K, int, float]]) -> Counters[K]:
    """What was recorded, as if the last reading had shown only those that moved last."""
    at_s = max((at_s for *_, at_s in rows), default=float("-inf"))
    absent = {key: seen_s for key, _, seen_s in rows if seen_s < at_s}
    return Counters({key: n for key, n, _ in rows}, at_s, absent)
