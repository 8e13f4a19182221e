"""The exchange in one SQLite file, for routers and relays that share a file system.

WAL, so that a reader never waits for a writer: the milter reads while the router publishes. One
connection under one lock, since libmilter calls from changing threads and sqlite3 objects must not
be used by two at once.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from egressguard.core.documents import (
    Bulletin,
    Report,
    decode_bulletin,
    decode_report,
    encode_bulletin,
    encode_report,
)
from egressguard.core.errors import ExchangeError
from egressguard.ownership import make_beside

SCHEMA = 1
BUSY_TIMEOUT_S = 0.2  # a stuck writer must not stop a round or a callback
D = TypeVar("D")


class SqliteExchange:
    """See `egressguard.exchange.Exchange`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.damaged = 0
        self._path = path
        self._lock = threading.Lock()
        self._version: int | None = None
        with self._translated():
            if not read_only:
                path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
                make_beside(path)
            url = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(url, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None,
                                       check_same_thread=False)
            try:
                self._prepare(read_only)
                self._inode = path.stat().st_ino
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, read_only: bool) -> None:
        schema = self._db.execute("PRAGMA user_version").fetchone()[0]
        if schema > SCHEMA:
            raise ExchangeError(f"exchange {self._path}: written by a later egressguard "
                                f"(schema {schema}, this one knows {SCHEMA}); upgrade this side")
        if read_only:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        # Soft state: every document is written anew within its lifetime, a lost last one costs freshness.
        self._db.execute("PRAGMA synchronous = OFF")
        if schema == 0:
            self._db.execute("CREATE TABLE IF NOT EXISTS document"
                             " (kind TEXT, name TEXT, body TEXT, PRIMARY KEY (kind, name)) WITHOUT ROWID")
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def publish(self, bulletin: Bulletin) -> None:
        """Leaves a router's bulletin in place of its last one."""
        self._put("bulletin", bulletin.origin.name, encode_bulletin(bulletin))

    def bulletins(self) -> list[Bulletin]:
        """Every router's newest bulletin."""
        return self._all("bulletin", decode_bulletin)

    def report(self, report: Report) -> None:
        """Leaves a relay's report in place of its last one."""
        self._put("report", report.origin.name, encode_report(report))

    def reports(self) -> list[Report]:
        """Every relay's newest report."""
        return self._all("report", decode_report)

    def changed(self) -> bool:
        """Whether another connection has written since the last call (PRAGMA data_version)."""
        with self._translated():
            self._check_inode()
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
        before, self._version = self._version, version
        return bool(before != version)

    def _check_inode(self) -> None:
        """An open SQLite file goes on working after it was deleted, but nobody else sees it any more."""
        if self._path.stat().st_ino != self._inode:
            raise ExchangeError(f"exchange {self._path}: was replaced by another file")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def _put(self, kind: str, name: str, body: str) -> None:
        with self._translated():
            self._db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (kind, name, body))

    def _all(self, kind: str, decode: Callable[[str], D]) -> list[D]:
        with self._translated():
            rows = self._db.execute("SELECT body FROM document WHERE kind = ?", (kind,)).fetchall()
        documents = []
        for (body,) in rows:
            try:
                documents.append(decode(body))
            except ValueError:
                self.damaged += 1
        return documents

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise ExchangeError(f"exchange {self._path}: {error}") from error
