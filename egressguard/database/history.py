"""History: what happened, in lines for people; an exposure has values beside its text."""

import json
import sqlite3
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from egressguard.core.exposure import Exposure
from egressguard.core.hosts import Host
from egressguard.database.file import File


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


class History(File):
    """The lines of history."""

    def event(self, now_s: float, kind: str, why: str) -> None:
        """Adds a line to history that is about no host: a start, a repair, a reload."""
        with self._translated():
            self._note(self._db, now_s, kind, None, why)

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

    def released(self, after: int) -> tuple[int, list[Host]]:
        """The hosts that were released since line `after` of history, and its last line."""
        with self._translated():
            last = self._db.execute("SELECT max(id) FROM history").fetchone()[0] or 0
            rows = [] if last == after else self._db.execute(
                "SELECT host FROM history WHERE id > ? AND kind = 'release' AND host IS NOT NULL",
                (after,)).fetchall()
        return last, [Host(host) for host, in rows]

    def _note(self, db: sqlite3.Connection, now_s: float, kind: str, host: Host | None, why: str
              ) -> int | None:
        return db.execute("INSERT INTO history (boot, at_s, kind, host, why) VALUES (?, ?, ?, ?, ?)",
                          (self._boot, now_s, kind, host, why)).lastrowid


def _entry(row: tuple[Any, ...]) -> Entry:
    return replace(Entry(*row[:-1]), exposure=json.loads(row[-1]) if row[-1] else None)
