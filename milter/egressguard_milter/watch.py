"""The background thread: verdicts in, reports out. Nothing it meets may stop it, or the decisions.

The decisions share one interpreter lock with it, so each step is short.
"""

import threading
import time
from collections.abc import Callable

from egressguard_milter.journal import line, logger
from egressguard_milter.limits import Limits
from egressguard_milter.link import Link
from egressguard_milter.reports import Reports, period_s
from egressguard_milter.signals import Change, Signals

MAX_CHANGE_LINES = 100
STOP_TIMEOUT_S = 2.0


class Watch:
    """Polls the exchange, puts verdicts in force, leaves reports."""

    def __init__(self, limits: Limits, signals: Signals, reports: Reports, link: Link,
                 upkeep: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._signals = signals
        self._reports = reports
        self._link = link
        self._upkeep = upkeep
        self._clock = clock
        self._report_at_s = float("-inf")
        self.stepped_s = clock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def step(self, now_s: float) -> None:
        """One poll. `upkeep` is what the ledger and its memory need now and then."""
        self._upkeep(now_s)
        bulletins = self._link.fetch(now_s)
        if bulletins is not None:
            replayed = self._signals.replayed
            self._signals.receive(bulletins, now_s)
            if self._signals.replayed > replayed:
                logger.warning(line("exchange_replayed", documents=self._signals.replayed - replayed,
                                    effect="none: newer ones are known"))
        changes = self._signals.evaluate(now_s)
        self._say(changes)
        if changes or now_s >= self._report_at_s:
            left = self._link.leave(self._reports.make(now_s), now_s)
            self._report_at_s = now_s + (period_s(self._limits.policy) if left else 0.0)

    def start(self) -> None:
        """Begins to poll."""
        self._thread.start()

    def stop(self) -> None:
        """Stops polling, leaves a last report with the final counts, lets go of the exchange."""
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)
        if not self._thread.is_alive():
            now_s = self._clock()
            self._link.leave(self._reports.make(now_s), now_s)
            self._link.close()

    def _run(self) -> None:
        while not self._stopping.wait(self._limits.policy.signal_poll_s):
            self.safe_step()

    def safe_step(self) -> None:
        """One poll, whatever happens: a verdict's end must not depend on the exchange's health."""
        self.stepped_s = self._clock()
        try:
            self.step(self.stepped_s)
        except Exception:
            logger.exception(line("watch_failed", effect="trying again"))
            self._say(self._signals.evaluate(self._clock()))

    def _say(self, changes: list[Change]) -> None:
        for change in changes[:MAX_CHANGE_LINES]:
            allowance = self._reports.allowance(change.host)
            before, after = (self._limits.scaled_under(allowance, state).standing
                             for state in (change.before, change.after))
            logger.warning(line("tier", client=change.host, verdict=change.after, tier_before=before.tier,
                                tier=after.tier, limit=after.limit))
        if len(changes) > MAX_CHANGE_LINES:
            logger.warning(line("tier", clients=len(changes) - MAX_CHANGE_LINES, detail="left out"))
