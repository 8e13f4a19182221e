"""One SQLite file: made, brought up to date, written in transactions; every error names it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from egressguard.core.errors import DatabaseError
from egressguard.database.schema import MIGRATIONS, NOT_KEPT, OWN_NUMBERS, SCHEMA
from egressguard.ownership import make_beside

BUSY_TIMEOUT_S = 2.0


class File:
    """An open file, made with its folder if it does not exist; in memory without a path.

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
        other = type(self)(path, self._boot)
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
