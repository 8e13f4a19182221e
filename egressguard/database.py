"""History in SQLite: verdicts, their changes, events, and the last counters seen.

Counts live in the kernel first. What is stored here is absolute (last counter, total so far) and written
in one transaction per round, so a kill at any instant loses nothing: the next start compares the kernel
with the last committed row. Monotonic times are stored with the boot that they belong to.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

from egressguard.core.attempts import Baseline, Counters
from egressguard.core.errors import DatabaseError
from egressguard.core.exposure import Exposure
from egressguard.core.hosts import Host
from egressguard.core.memory import freeze, thaw
from egressguard.core.orders import Order
from egressguard.core.ruleset import FAMILY
from egressguard.core.verdict import Cause, State, Transition, Verdict
from egressguard.ownership import make_beside

K = TypeVar("K")
BUSY_TIMEOUT_S = 2.0
# Append only: entry n brings a file from schema n to n + 1. A file that exists somewhere is never read anew.
MIGRATIONS = ("""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE counter (host TEXT, kind TEXT, count INTEGER, at_s REAL, PRIMARY KEY (host, kind)) WITHOUT ROWID;
CREATE TABLE destination (host TEXT, address TEXT, count INTEGER, at_s REAL,
                          PRIMARY KEY (host, address)) WITHOUT ROWID;
CREATE TABLE verdict (host TEXT PRIMARY KEY, state TEXT, score REAL, since_s REAL, at_s REAL,
                      attempts INTEGER, why TEXT, against REAL, boot TEXT) WITHOUT ROWID;
CREATE TABLE history (id INTEGER PRIMARY KEY, wall TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')),
                      boot TEXT, at_s REAL, kind TEXT, host TEXT, before TEXT, after TEXT,
                      score REAL, attempts INTEGER, why TEXT);
CREATE TABLE standing_order (number INTEGER PRIMARY KEY, kind TEXT, host TEXT, destination TEXT, owner TEXT,
                             reason TEXT, remaining_s REAL, at_s REAL, boot TEXT);
""", """
CREATE TABLE configuration (number INTEGER PRIMARY KEY, digest TEXT, config TEXT, rules TEXT, state TEXT,
                            boot TEXT, ends_s REAL, wall TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')));
CREATE TABLE exposure (history INTEGER PRIMARY KEY, detail TEXT);
CREATE TABLE alert (key TEXT PRIMARY KEY, boot TEXT, at_s REAL, suppressed INTEGER) WITHOUT ROWID;
CREATE TABLE outbox (number INTEGER PRIMARY KEY, channel TEXT, body TEXT, tries INTEGER DEFAULT 0,
                     error TEXT DEFAULT '', wall TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')));
""", """
CREATE TABLE beside_counter (family TEXT, host TEXT, kind TEXT, count INTEGER, at_s REAL,
                             PRIMARY KEY (family, host, kind)) WITHOUT ROWID;
CREATE TABLE beside_destination (family TEXT, host TEXT, address TEXT, count INTEGER, at_s REAL,
                                 PRIMARY KEY (family, host, address)) WITHOUT ROWID;
""", """
ALTER TABLE history ADD COLUMN detail TEXT;
DROP TABLE exposure;
""", """
ALTER TABLE verdict DROP COLUMN against;
ALTER TABLE verdict ADD COLUMN cause TEXT DEFAULT 'unknown';
ALTER TABLE verdict ADD COLUMN firm REAL DEFAULT 0;
ALTER TABLE verdict ADD COLUMN until_s REAL DEFAULT 0;
ALTER TABLE verdict ADD COLUMN memory BLOB;
CREATE TABLE explanation (host TEXT PRIMARY KEY, body TEXT, at_s REAL, boot TEXT) WITHOUT ROWID;
CREATE TABLE volume (host TEXT, window INTEGER, accepted INTEGER, deferred INTEGER, recipients INTEGER,
                     refused INTEGER, PRIMARY KEY (host, window)) WITHOUT ROWID;
CREATE INDEX volume_window ON volume (window);
""", """
CREATE TABLE reported (relay TEXT, host TEXT, epoch INTEGER, sequence INTEGER, accepted INTEGER,
                       deferred INTEGER, recipients INTEGER, refused INTEGER, senders INTEGER,
                       domains INTEGER, PRIMARY KEY (relay, host)) WITHOUT ROWID;
""")
# Numbers that a file gives anew; and what stays behind: what is in force is written down again.
OWN_NUMBERS = frozenset({("history", "id"), ("outbox", "number")})
NOT_KEPT = frozenset({"configuration"})
SCHEMA = len(MIGRATIONS)
VERDICT_COLUMNS = "host, state, score, since_s, at_s, attempts, why, cause, firm, until_s, memory, boot"


def nothing(_: sqlite3.Connection) -> None:
    """Writes nothing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of history; `wall` is UTC for people, `at_s` monotonic seconds of boot `boot`. An exposure has
    its values beside its text: those of core.exposure.Exposure, and `start` and `end` in UTC.
    """

    wall: str
    boot: str
    at_s: float
    kind: str
    host: str | None
    before: str | None
    after: str | None
    score: float | None
    attempts: int | None
    why: str
    exposure: dict[str, Any] | None = None


class Database:
    """One open file, made with its folder if it does not exist; in memory without a path.

    Every method raises DatabaseError. `boot` names this boot.
    """

    def __init__(self, path: Path | None, boot: str, *, read_only: bool = False) -> None:
        self._path, self._boot = path or "in memory", boot
        url = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}" if path else "file::memory:"
        with self._translated():
            if path is not None and not read_only:
                path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                make_beside(path)
            self._db = sqlite3.connect(url, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._check_schema(read_only)
            except BaseException:
                self._db.close()
                raise

    def _check_schema(self, read_only: bool) -> None:
        schema = self._db.execute("PRAGMA user_version").fetchone()[0]
        if schema > SCHEMA:
            raise DatabaseError(f"database {self._path}: written by a later egressguard (schema {schema}, "
                                f"this one knows {SCHEMA}); upgrade, or name another file")
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            # A committed round survives our death; only power loss can cost the last rounds' rows, and
            # the counters that they describe live in that same machine's kernel.
            self._db.execute("PRAGMA synchronous = NORMAL")
            if schema < SCHEMA:
                self._migrate()
        elif schema < SCHEMA:
            raise DatabaseError(f"database {self._path}: written by an earlier egressguard (schema {schema}, "
                                f"this one knows {SCHEMA}); the daemon brings it up to date when it starts")

    def _migrate(self) -> None:
        """Brings the file up to date in one transaction; of two processes that try, one does it."""
        with self.transaction() as db:
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            for step in MIGRATIONS[schema:]:
                for statement in filter(str.strip, step.split(";")):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA}")

    def keep_in(self, path: Path) -> None:
        """From memory into the file at `path`, which could not be used before: whole, or not at all."""
        other = Database(path, self._boot)
        try:
            with other.transaction() as db, self._translated():
                tables = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for table in (name for name, in tables if name not in NOT_KEPT):
                    names = [row[1] for row in self._db.execute(f"PRAGMA table_info({table})")]
                    names = [name for name in names if (table, name) not in OWN_NUMBERS]
                    rows = self._db.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()
                    db.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(names)})"
                                   f" VALUES ({', '.join('?' * len(names))})", rows)
        except BaseException:
            other.close()
            raise
        self._db.close()
        self._db, self._path = other._db, path

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

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

    def verdicts(self, now_s: float) -> dict[Host, Verdict]:
        """The verdicts last recorded; those of an earlier boot as if they had been reached now."""
        with self._translated():
            rows = self._db.execute(f"SELECT {VERDICT_COLUMNS} FROM verdict").fetchall()
        verdicts = {}
        for host, state, score, since_s, at_s, attempts, why, cause, firm, until_s, memory, boot in rows:
            if boot != self._boot:
                since_s, until_s, at_s = now_s, now_s + max(0.0, until_s - at_s), now_s
            state = State(state)
            verdicts[Host(host)] = Verdict(
                Host(host), state, score, since_s, at_s, attempts, why, Cause(cause), firm,
                math.inf if state is State.CLEAN else until_s, memory=thaw(memory, at_s))
        return verdicts

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

    def _put_verdicts(self, db: sqlite3.Connection, verdicts: Iterable[Verdict]) -> None:
        db.executemany(
            f"INSERT OR REPLACE INTO verdict ({VERDICT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((v.host, v.state, v.score, v.since_s, v.at_s, v.attempts, v.why, v.cause, v.firm,
              0.0 if v.until_s == math.inf else v.until_s, freeze(v.memory), self._boot) for v in verdicts))

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

    def explain(self, bodies: Mapping[Host, str], now_s: float) -> None:
        """Keeps what made the verdicts on these hosts, as text that `core.explanation` reads."""
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO explanation VALUES (?, ?, ?, ?)",
                           ((host, body, now_s, self._boot) for host, body in bodies.items()))

    def explanation(self, host: Host) -> tuple[str, float] | None:
        """What made the verdict on `host`, and when that was kept; None when nothing of this boot is."""
        with self._translated():
            row = self._db.execute("SELECT body, at_s FROM explanation WHERE host = ? AND boot = ?",
                                   (host, self._boot)).fetchone()
        return None if row is None else (str(row[0]), float(row[1]))

    def released(self, after: int) -> tuple[int, list[Host]]:
        """The hosts that were released since line `after` of history, and its last line."""
        with self._translated():
            last = self._db.execute("SELECT max(id) FROM history").fetchone()[0] or 0
            rows = [] if last == after else self._db.execute(
                "SELECT host FROM history WHERE id > ? AND kind = 'release' AND host IS NOT NULL",
                (after,)).fetchall()
        return last, [Host(host) for host, in rows]

    def event(self, now_s: float, kind: str, why: str) -> None:
        """Adds a line to history that is about no host: a start, a repair, a reload."""
        with self._translated():
            self._note(self._db, now_s, kind, None, why)

    def give_order(self, order: Order, now_s: float) -> None:
        """Adds a standing order, and says so in history."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO standing_order (kind, host, destination, owner, reason, remaining_s, at_s, boot)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (order.kind, order.host, order.destination, order.owner, order.reason, order.remaining_s,
                 now_s, self._boot))
            self._note(db, now_s, order.kind, order.host, order.describe())

    def orders(self, now_s: float) -> list[Order]:
        """The standing orders with the time that each has left; of one given before this boot, what it had
        left when it was last kept.
        """
        with self._translated():
            rows = self._db.execute(
                "SELECT kind, owner, reason, remaining_s, host, destination, number, at_s, boot"
                " FROM standing_order").fetchall()
        orders = []
        for kind, owner, reason, left_s, host, destination, number, at_s, boot in rows:
            passed_s = max(0.0, now_s - at_s) if boot == self._boot else 0.0
            if left_s > passed_s:
                orders.append(Order(kind, owner, reason, left_s - passed_s, host, destination, number))
        return orders

    def keep_orders(self, now_s: float) -> None:
        """Writes down what each order has left, so that a reboot can go on from there; drops ended ones."""
        with self.transaction() as db:
            standing = self.orders(now_s)
            db.execute("DELETE FROM standing_order")
            db.executemany("INSERT INTO standing_order VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (
                (o.number, o.kind, o.host, o.destination, o.owner, o.reason, o.remaining_s, now_s, self._boot)
                for o in standing))

    def end_orders(self, numbers: Iterable[int], host: Host | None, why: str, now_s: float,
                   verdict: Verdict | None = None) -> None:
        """Ends orders before their time, and says so in history, with the `verdict` that stands after it."""
        with self.transaction() as db:
            self._put_verdicts(db, [verdict] if verdict is not None else [])
            db.executemany("DELETE FROM standing_order WHERE number = ?", [(n,) for n in numbers])
            self._note(db, now_s, "release", host, why)

    def _note(self, db: sqlite3.Connection, now_s: float, kind: str, host: Host | None, why: str
              ) -> int | None:
        return db.execute("INSERT INTO history (boot, at_s, kind, host, why) VALUES (?, ?, ?, ?, ?)",
                          (self._boot, now_s, kind, host, why)).lastrowid

    def history(self, host: Host | None = None, limit: int = 1000) -> list[Entry]:
        """The newest `limit` lines, oldest first; only one host's when `host` is given."""
        with self._translated():
            rows = self._db.execute(
                "SELECT wall, boot, at_s, kind, host, before, after, score, attempts, why, detail"
                " FROM history"
                " WHERE ?1 IS NULL OR host = ?1 ORDER BY id DESC LIMIT ?2", (host, limit)).fetchall()
        return [_entry(row) for row in reversed(rows)]

    def expose(self, exposure: Exposure, now_s: float) -> None:
        """Records an exposure, as a line of history and as values."""
        def wall(at_s: float) -> str:
            return (datetime.now(UTC) - timedelta(seconds=now_s - at_s)).isoformat(timespec="milliseconds")

        detail = {**asdict(exposure), "start": wall(exposure.start_s), "end": wall(exposure.end_s)}
        with self.transaction() as db:
            number = self._note(db, exposure.noticed_s, "exposure", None, exposure.describe())
            db.execute("UPDATE history SET detail = ? WHERE id = ?", (json.dumps(detail), number))

    def exposures(self, limit: int) -> list[Entry]:
        """The newest `limit` exposures, oldest first."""
        rows = self.rows("SELECT wall, boot, at_s, kind, host, before, after, score, attempts, why, detail"
                         " FROM history WHERE kind = 'exposure' AND detail IS NOT NULL"
                         " ORDER BY id DESC LIMIT ?", limit)
        return [_entry(row) for row in reversed(rows)]

    def exposed(self) -> tuple[int, float]:
        """How many exposures there were, and for how many seconds in all."""
        count, seconds = self.rows("SELECT count(*), coalesce(sum(json_extract(detail, '$.end_s') -"
                                   " json_extract(detail, '$.start_s')), 0) FROM history"
                                   " WHERE kind = 'exposure' AND detail IS NOT NULL")[0]
        return int(count), float(seconds)

    def meta(self, key: str) -> str | None:
        """A remembered single value, or None."""
        with self._translated():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Remembers a single value."""
        with self._translated():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query answers."""
        with self._translated():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction that writes: as a whole or, when an exception leaves it, not at all."""
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise DatabaseError(f"database {self._path}: {error}") from error


def _entry(row: tuple[Any, ...]) -> Entry:
    return replace(Entry(*row[:-1]), exposure=json.loads(row[-1]) if row[-1] else None)


def open_database(path: Path, boot: str) -> tuple[Database, str]:
    """The database at `path`; if it cannot be used, one in memory, and the reason.

    Enforcement must not wait for a disk: a router without history blocks as well as one with it. A file that
    is damaged is left as it is, for a person to look at.
    """
    try:
        return Database(path, boot), ""
    except DatabaseError as error:
        return Database(None, boot), f"{error}; history is kept in memory until it can be"


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
