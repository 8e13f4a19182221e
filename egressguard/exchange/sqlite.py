"""The exchange in one SQLite file, for routers and relays that share a file system.

WAL, so that a reader never waits for a writer: the milter reads while the router publishes. One
connection under one lock, since sqlite3 objects must not be used by two threads at once.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from egressguard.core.errors import ExchangeError
from egressguard.ownership import make_beside

SCHEMA = 1
PACKAGED = Path("/var/lib/egressguard")
BUSY_TIMEOUT_S = 0.2  # a stuck writer must not stop a round or a callback


class SqliteStore:
    """See `egressguard.exchange.Store`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._version: int | None = None
        with self._translated():
            if not read_only:
                _make_folder(path.parent)
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

    def put(self, kind: str, name: str, text: str) -> None:
        """Leaves `text` in place of what stood there."""
        with self._translated():
            self._db.execute("INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (kind, name, text))

    def read(self, kind: str) -> Mapping[str, str]:
        """Every text of a kind, by name."""
        with self._translated():
            rows = self._db.execute("SELECT name, body FROM document WHERE kind = ?", (kind,)).fetchall()
        return {str(name): str(body) for name, body in rows}

    def forget(self, kind: str, name: str) -> None:
        """Removes a text."""
        with self._translated():
            self._db.execute("DELETE FROM document WHERE kind = ? AND name = ?", (kind, name))

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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise ExchangeError(f"exchange {self._path}: {error}") from error


def _make_folder(folder: Path) -> None:
    """Below the packages' own folder only: anywhere else, a folder that is not there is a mistyped path."""
    if folder.is_relative_to(PACKAGED):
        folder.mkdir(mode=0o770, parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: make it, or correct the path")
