"""History in SQLite: verdicts, their changes, events, and the last counters seen.

Counts live in the kernel first. What is stored here is absolute (last counter, total so far) and written
in one transaction per round, so a kill at any instant loses nothing: the next start compares the kernel
with the last committed row. Monotonic times are stored with the boot that they belong to.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from egressguard.core.attempts import Baseline
from egressguard.core.errors import DatabaseError
from egressguard.core.hosts import Host
from egressguard.core.verdict import Transition, Verdict
from egressguard.database.counters import LastCounters, changed
from egressguard.database.history import Entry
from egressguard.database.orders import Orders
from egressguard.database.schema import MIGRATIONS

__all__ = ["MIGRATIONS", "Database", "Entry", "changed", "nothing", "open_database"]


def nothing(_: sqlite3.Connection) -> None:
    """Writes nothing."""


class Database(Orders, LastCounters):
    """Everything that a router remembers: see the classes that it is made of."""

    def record(self, incarnation: str, moved: Baseline, verdicts: Iterable[Verdict],
               steps: Iterable[Transition],
               beside: Mapping[str, tuple[str, Baseline]] = MappingProxyType({}),
               along: Callable[[sqlite3.Connection], None] = nothing) -> None:
        """One round: the counters that moved, the verdicts that they changed, and how these changed.

        `beside` holds incarnation and counters of the other tables, by family; what `along` writes is in the
        same transaction.
        """
        with self.transaction() as db:
            if self.meta("incarnation") != incarnation:
                db.execute("DELETE FROM counter")
                db.execute("DELETE FROM destination")
                db.execute("INSERT OR REPLACE INTO meta VALUES ('incarnation', ?)", (incarnation,))
            self._put_counters(db, moved)
            for family, (life, counters) in beside.items():
                self._put_beside(db, family, life, counters)
            self._put_verdicts(db, verdicts)
            db.executemany(
                "INSERT INTO history (boot, at_s, kind, host, before, after, score, attempts, why)"
                " VALUES (?, ?, 'verdict', ?, ?, ?, ?, ?, ?)",
                ((self._boot, s.at_s, s.host, s.before, s.after, s.score, s.attempts, s.why) for s in steps))
            along(db)

    def forget(self, hosts: Iterable[Host], before_s: float) -> None:
        """Drops the verdicts and counters of `hosts`, and destinations that did not move since `before_s`.

        A host's counter may stand still for months and must stay, or it would be counted again.
        """
        gone = [(host,) for host in hosts]
        with self.transaction() as db:
            db.executemany("DELETE FROM verdict WHERE host = ?", gone)
            db.executemany("DELETE FROM explanation WHERE host = ?", gone)
            db.executemany("DELETE FROM counter WHERE host = ?", gone)
            db.executemany("DELETE FROM beside_counter WHERE host = ?", gone)
            db.execute("DELETE FROM destination WHERE at_s < ?", (before_s,))
            db.execute("DELETE FROM beside_destination WHERE at_s < ?", (before_s,))


def open_database(path: Path, boot: str) -> tuple[Database, str]:
    """The database at `path`; if it cannot be used, one in memory, and the reason.

    Enforcement must not wait for a disk: a router without history blocks as well as one with it. A file that
    is damaged is left as it is, for a person to look at.
    """
    try:
        return Database(path, boot), ""
    except DatabaseError as error:
        return Database(None, boot), f"{error}; history is kept in memory until it can be"
