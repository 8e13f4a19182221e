"""The daemon's canary: sent now and then, never waited for; what changes about its fate is told once."""

import logging
from typing import TYPE_CHECKING

from egressguard.core.canary import Fate, Flight, Run, summary
from egressguard.core.errors import DatabaseError, KernelError
from egressguard.core.settings import Settings
from egressguard.database import Database

if TYPE_CHECKING:
    from egressguard.kernel.canary import Canary

log = logging.getLogger(__name__)


class CanaryWatch:
    """Holds the canary in the air and the last one's run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._canary: Canary | None = None
        self._sent_s = float("-inf")
        self._run: Run | None = None
        self._told: tuple[Fate, ...] = (Fate.REFUSED,)

    def step(self, settings: Settings, now_s: float) -> Run | None:
        """Sends a canary if one is due, takes in the one that is back; the last run, if it is enabled."""
        if not settings.canary.enabled:
            self.close()
            self._run, self._sent_s = None, float("-inf")
            return None
        try:
            self._fly(settings, now_s)
        except KernelError as error:
            self._canary = None
            self._take(Run(now_s, (Flight(0, Fate.UNABLE, f"the canary could not be sent: {error}"),)), now_s)
        return self._run

    def close(self) -> None:
        """Ends a flight that is under way."""
        if self._canary is not None:
            self._canary.shoot()
        self._canary = None

    def _fly(self, settings: Settings, now_s: float) -> None:
        # With pyroute2, which costs a daemon without a canary half its start.
        from egressguard.kernel.canary import LIFETIME_S, Canary

        if self._canary is not None:
            run = self._canary.landed()
            if run is not None:
                self._canary = None
                self._take(run, now_s)
            elif now_s - self._sent_s > LIFETIME_S:
                self.close()
                raise KernelError("its process does not end")
        elif now_s - self._sent_s >= settings.canary.period_s:
            self._sent_s = now_s
            self._canary = Canary(settings)

    def _take(self, run: Run, now_s: float) -> None:
        self._run = run
        fates = tuple(sorted({flight.fate for flight in run.flights}))
        if fates == self._told:
            return
        self._told = fates
        good = fates == (Fate.REFUSED,)
        log.log(logging.INFO if good else logging.ERROR, "canary fates=%s text=%r", ",".join(fates),
                summary(run))
        try:
            self._database.event(now_s, "canary", summary(run))
        except DatabaseError as error:
            log.error("not in history: %s", error)
