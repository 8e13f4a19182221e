"""The daemon follows what is written down: a configuration that a command has put in force or on trial
becomes its own, and the one before it returns when a trial ends without a confirmation.
"""

import logging

from egressguard.config import Site
from egressguard.configurations import Configurations, InForce, check_fixed
from egressguard.core.errors import DatabaseError, EgressguardError
from egressguard.core.settings import Settings
from egressguard.database import Database
from egressguard.enforcement import Enforcement

log = logging.getLogger(__name__)


class Following:
    """Holds which version `enforcement` enforces. Methods raise EgressguardError, having changed nothing.

    `former` are the settings that were in force before the start, None if there were none.
    """

    def __init__(self, configurations: Configurations, enforcement: Enforcement, database: Database) -> None:
        self._configurations, self._enforcement, self._database = configurations, enforcement, database
        self.former: Settings | None = None
        self._number: int | None = None
        self._on_trial = False

    def start(self, now_s: float) -> None:
        """Loads what the file says, or what is in force instead of it."""
        decided = self._decided(self._enforcement.site, now_s)
        self.former = self._in_force(now_s)
        self._take(decided, now_s, "start")

    def enforced(self, now_s: float) -> Site | None:
        """What the last daemon enforced; None when it was on trial, whose elements end by themselves."""
        try:
            found = self._configurations.current(now_s)
        except EgressguardError:
            return None
        return found.site if found is not None and found.former is None else None

    def _in_force(self, now_s: float) -> Settings | None:
        """What the last daemon enforced, as far as that can still be told."""
        try:
            found = self._configurations.current(now_s)
        except EgressguardError as error:
            log.error("what was in force before is not known: %s", error)
            return None
        return found.site.settings if found is not None else None

    def reload(self, site: Site, now_s: float) -> None:
        """The same for a file that was read anew."""
        check_fixed(self._enforcement.site, site)
        self._take(self._decided(site, now_s), now_s, "reload")

    def follow(self, now_s: float) -> None:
        """Takes over what somebody has put in force or on trial, and returns when a trial is over."""
        self._write_down()
        version = self._configurations.version(now_s)
        on_trial = version is not None and version.state == "trial"
        if version is None or (version.number, on_trial) == (self._number, self._on_trial):
            return
        ended = self._number if self._on_trial and version.number != self._number else None
        current = self._configurations.current(now_s)
        if current is not None:
            self._take(current, now_s, f"configuration {version.number} is {version.state}")
        if ended is not None and self._configurations.refuse(ended) is not None:
            log.error("the configuration on trial was not confirmed: the one before it is in force again")
            self._database.event(now_s, "rollback", "the configuration on trial was not confirmed")

    def write_down_again(self) -> None:
        """For another database, whose numbers mean something else."""
        self._number, self._on_trial = None, False
        self._write_down()

    def _decided(self, site: Site, now_s: float) -> InForce:
        try:
            decided = self._configurations.decide(site, now_s)
        except DatabaseError as error:
            log.error("what was in force before is not known: %s", error)
            return InForce(site)
        if decided.site.text != site.text:
            log.error("not taken over: %s", self._configurations.unconfirmed(site, now_s))
        return decided

    def _take(self, wanted: InForce, now_s: float, why: str) -> None:
        before = self._enforcement.site
        self._enforcement.adopt(wanted.site, wanted.former, wanted.ends_s)
        try:
            self._enforcement.load(now_s, why)
        except EgressguardError:
            self._enforcement.adopt(before)
            raise
        self._number, self._on_trial = wanted.number, wanted.former is not None
        try:
            self._write_down()
        except DatabaseError as error:
            log.error("the configuration in force is not written down, and is tried again: %s", error)

    def _write_down(self) -> None:
        if self._number is None:
            self._number = self._configurations.put_in_force(self._enforcement.site)
