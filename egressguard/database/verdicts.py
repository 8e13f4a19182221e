"""The verdicts as they were recorded last, with what made them."""

import math
import sqlite3
from collections.abc import Iterable, Mapping

from egressguard.core.hosts import Host
from egressguard.core.memory import freeze, thaw
from egressguard.core.verdict import Cause, State, Verdict
from egressguard.database.history import History

VERDICT_COLUMNS = "host, state, score, since_s, at_s, attempts, why, cause, firm, until_s, memory, boot"


class Verdicts(History):
    """The verdict on each host."""

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

    def _put_verdicts(self, db: sqlite3.Connection, verdicts: Iterable[Verdict]) -> None:
        db.executemany(
            f"INSERT OR REPLACE INTO verdict ({VERDICT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((v.host, v.state, v.score, v.since_s, v.at_s, v.attempts, v.why, v.cause, v.firm,
              0.0 if v.until_s == math.inf else v.until_s, freeze(v.memory, v.at_s), self._boot)
             for v in verdicts))
