"""Alerts that wait for their delivery, in the database: nothing is lost when nobody takes them.

Deliveries are at least once: who is killed between a delivery and its record delivers again, with the same
number.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from egressguard.core.alerts import Alert, Told, Where, decide, of_limit
from egressguard.core.notify_settings import Notify
from egressguard.database import Database

HOUR_S = 3600.0
TEST = "test:"  # stands before the channel of a test, which waits for one try and for nobody's turn
MOST_WAITING = 10_000
TEST_LIFETIME_S = 600
NO_TEST = f"channel NOT LIKE '{TEST}%'"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An alert for one channel; `error` is why the last of `tries` failed."""

    number: int
    channel: str
    alert: Alert
    tries: int
    error: str
    wall: str


class Outbox:
    """What waits in `database`. Methods raise DatabaseError."""

    def __init__(self, database: Database, boot: str) -> None:
        self._database, self._boot = database, boot
        self.held: list[Alert] = []

    def post(self, alerts: Iterable[Alert], notify: Notify, where: Where, now_s: float) -> list[Alert]:
        """Puts those that are to be told into the outbox, for every channel; which ones.

        What is too many in this hour is `held`: whoever posts it again later loses none.
        """
        told, self.held = [], []
        for alert in alerts:
            decision = decide(self._told(alert.key), self._lately(now_s), now_s, notify.repeat_s,
                              notify.most_per_hour)
            if decision == "same":
                self._suppress(alert.key)
            elif decision == "too many":
                self.held.append(alert)
                told += self._limit(notify, where, now_s)
            else:
                told.append(self._tell(alert, notify, now_s))
        return told

    def _limit(self, notify: Notify, where: Where, now_s: float) -> list[Alert]:
        """Says once in an hour that more happens."""
        last = self._told("limit")
        if last is not None and 0 <= now_s - last.at_s < HOUR_S:
            self._suppress("limit")
            return []
        return [self._tell(of_limit(notify.most_per_hour, now_s, where), notify, now_s)]

    def _tell(self, alert: Alert, notify: Notify, now_s: float) -> Alert:
        last = self._told(alert.key)
        if last is not None and last.suppressed:
            text = f"{alert.text}\n{last.suppressed} of the same were held back since the last one.\n"
            alert = replace(alert, text=text, facts={**alert.facts, "held_back": last.suppressed})
        with self._database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO alert VALUES (?, ?, ?, 0)", (alert.key, self._boot, now_s))
            if self.waiting_count() < MOST_WAITING:
                db.executemany("INSERT INTO outbox (channel, body) VALUES (?, ?)",
                               [(channel, json.dumps(asdict(alert))) for channel in notify.channels()])
            db.execute("DELETE FROM alert WHERE boot != ?", (self._boot,))
        return alert

    def _told(self, key: str) -> Told | None:
        rows = self._database.rows("SELECT at_s, suppressed FROM alert WHERE key = ? AND boot = ?",
                                   key, self._boot)
        return Told(*rows[0]) if rows else None

    def _lately(self, now_s: float) -> int:
        return int(self._database.rows("SELECT count(*) FROM alert WHERE boot = ? AND at_s > ?"
                                       " AND key != 'limit'", self._boot, now_s - HOUR_S)[0][0])

    def _suppress(self, key: str) -> None:
        with self._database.transaction() as db:
            db.execute("UPDATE alert SET suppressed = suppressed + 1 WHERE key = ?", (key,))

    def waiting_count(self) -> int:
        """How many deliveries are outstanding."""
        return int(self._database.rows(f"SELECT count(*) FROM outbox WHERE {NO_TEST}")[0][0])

    def waiting(self, channel: str | None = None) -> list[Waiting]:
        """What waits, oldest first; tests only when they are asked for, by `TEST` and the channel."""
        rows = self._database.rows("SELECT number, channel, body, tries, error, wall FROM outbox WHERE"
                                   f" channel = ?1 OR ?1 IS NULL AND {NO_TEST} ORDER BY number", channel)
        return [Waiting(number, where, Alert(**json.loads(body)), tries, error, wall)
                for number, where, body, tries, error, wall in rows]

    def delivered(self, number: int) -> None:
        """Takes it out."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM outbox WHERE number = ?", (number,))

    def post_tests(self, alert: Alert, channels: Iterable[str]) -> dict[str, int]:
        """Puts a test for each channel into the outbox; their numbers. What such a test left behind goes."""
        with self._database.transaction() as db:
            db.execute(f"DELETE FROM outbox WHERE NOT {NO_TEST} AND wall < strftime(?, 'now', ?)",
                       ("%Y-%m-%dT%H:%M:%fZ", f"-{TEST_LIFETIME_S} seconds"))
            return {channel: int(db.execute("INSERT INTO outbox (channel, body) VALUES (?, ?)",
                                            (TEST + channel, json.dumps(asdict(alert)))).lastrowid or 0)
                    for channel in channels}

    def outcome(self, number: int) -> str | None:
        """Why the last try of what is there failed, empty when it did not; None before there was one."""
        rows = self._database.rows("SELECT error FROM outbox WHERE number = ? AND tries", number)
        return str(rows[0][0]) if rows else None

    def tried(self, number: int, error: str) -> None:
        """Notes how a try ended, and thus why it is still there."""
        with self._database.transaction() as db:
            db.execute("UPDATE outbox SET tries = tries + 1, error = ? WHERE number = ?",
                       (error[:500], number))
