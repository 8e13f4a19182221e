"""Looks at each round and puts into the outbox what somebody should be told; never stops a round."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from egressguard.boot import boot_id, now_s
from egressguard.core import alerts
from egressguard.core.alerts import Alert, Evidence, Where
from egressguard.core.attempts import Totals
from egressguard.core.canary import Fate
from egressguard.core.errors import DatabaseError
from egressguard.core.exposure import Exposure
from egressguard.core.settings import Settings
from egressguard.core.verdict import State, Transition
from egressguard.database import Database
from egressguard.heartbeat import Pulse
from egressguard.outbox import Outbox

log = logging.getLogger(__name__)
MOST_UNSAVED = 1000
SILENT_S = 60.0
COUNT_EVERY_S = 5.0
HELD_S = 60.0  # what is too many in this hour is posted again so often
News = Sequence[tuple[Transition, Evidence] | Exposure]


def where_of(router: str) -> Where:
    """The router, and its wall clock as it goes now."""
    now, at_s = datetime.now(UTC).astimezone(), now_s()
    return Where(router, lambda s: (now - timedelta(seconds=at_s - s)).isoformat(" ", "seconds"))


class Alarm:
    """Holds what the last round looked like, and what the database has not taken yet."""

    def __init__(self, database: Database) -> None:
        self._outbox = Outbox(database, boot_id())
        self._unsaved: list[Alert] = []
        self._held: list[Alert] = []
        self._held_until_s = float("-inf")
        self._totals: Totals | None = None
        self._silent_since_s: dict[str, float] = {}
        self._told_s: dict[str, float] = {}
        self._waiting, self._counted_s = 0, float("-inf")

    def look(self, settings: Settings, pulse: Pulse, totals: Totals | None, news: News) -> None:
        """Posts what has happened since the last round."""
        where = where_of(settings.router)
        lasting = [alert for alert in self._of_state(settings, pulse, totals, where)
                   if self._again(alert.key, pulse.at_s, settings.notify.repeat_s)]
        found = [*self._of_news(settings, news, where), *lasting]
        found = [*self._due(pulse.at_s), *(alert for alert in found if alert.kind in settings.notify.on)]
        self._unsaved = [*self._unsaved, *found][-MOST_UNSAVED:]
        if not self._unsaved:
            return
        try:
            told = self._outbox.post(self._unsaved, settings.notify, where, pulse.at_s)
        except DatabaseError as error:
            log.error("alerts wait for the database: %s", error)
            return
        self._unsaved = []
        self._held = [*self._held, *self._outbox.held][-MOST_UNSAVED:]
        for alert in told:
            log.warning("alert kind=%s title=%r", alert.kind, alert.title)

    def _due(self, at_s: float) -> list[Alert]:
        """What was held, when it is time to ask whether it still is; each owner is told in the end."""
        if not self._held or at_s < self._held_until_s:
            return []
        held, self._held = self._held, []
        self._held_until_s = at_s + HELD_S
        return held

    def _again(self, key: str, at_s: float, repeat_s: float) -> bool:
        """Whether what lasts is to be told again; asked in every round, so the database is not."""
        if at_s - self._told_s.get(key, float("-inf")) < repeat_s:
            return False
        self._told_s[key] = at_s
        return True

    def _of_news(self, settings: Settings, news: News, where: Where) -> list[Alert]:
        least = State(settings.notify.verdicts_from)
        found = []
        for item in news:
            if isinstance(item, Exposure):
                found.append(alerts.of_exposure(item, where))
            elif max(item[0].before.rank, item[0].after.rank) >= least.rank:
                found.append(alerts.of_step(*item, where))
        return found

    def _of_state(self, settings: Settings, pulse: Pulse, totals: Totals | None, where: Where) -> list[Alert]:
        found = [*self._silences(settings, pulse, where)]
        before, self._totals = self._totals, totals or self._totals
        if before is not None and totals is not None:
            overflow = alerts.of_overflow(before, totals, pulse.at_s, where)
            found += [overflow] if overflow else []
        if pulse.canary is not None and pulse.canary.having(Fate.LEAKED, Fate.UNCOUNTED, Fate.UNABLE):
            canary = alerts.of_canary(pulse.canary, where)
            found += [canary] if canary else []
        return found

    def _silences(self, settings: Settings, pulse: Pulse, where: Where) -> list[Alert]:
        """The exchange, and relays, that have not been heard for long; each once, until it is heard again."""
        reasons = {f"relay {name}": f"its last report is {pulse.at_s - at_s:.0f} s old"
                   for name, at_s in pulse.reports.items()
                   if pulse.at_s - at_s > max(SILENT_S, 2 * settings.signal_lifetime_s)}
        if "exchange" in pulse.faults:
            reasons["the exchange"] = pulse.faults["exchange"]
        since = {what: self._silent_since_s.get(what, pulse.at_s) for what in reasons}
        told = [what for what, at_s in since.items()
                if what != "the exchange" or pulse.at_s - at_s >= SILENT_S]
        self._silent_since_s = since
        return [alerts.of_silence(what, reasons[what], pulse.at_s, where) for what in told]

    def waiting(self, now_s: float) -> int:
        """How many deliveries are outstanding; the last number known while it cannot be told."""
        if now_s - self._counted_s >= COUNT_EVERY_S:
            self._counted_s = now_s
            try:
                self._waiting = self._outbox.waiting_count()
            except DatabaseError:
                log.debug("the outbox cannot be read", exc_info=True)
        return self._waiting
