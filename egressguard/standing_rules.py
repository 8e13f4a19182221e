"""The rules of one of our tables as they stand in the kernel, beside the file that makes them.

Read anew at each question; what is remembered is what the kernel held right after the last load.
"""

from time import sleep

from egressguard.core.errors import KernelError
from egressguard.core.ruleset import TABLE
from egressguard.core.tables import LAST_LINE, Table
from egressguard.desired import Desired
from egressguard.kernel import Kernel, Ruleset, incarnation
from egressguard.kernel.rules_file import RulesFile, rules_of

SETTLE_S = (0.01, 0.02)


class StandingRules:
    """Methods raise KernelError. `expected` is the table that the file made when it was loaded last, None
    before that; `incarnation` names the life of that table, empty before.
    """

    def __init__(self, desired: Desired, kernel: Kernel, boot: str, table: Table) -> None:
        self.table, self._desired, self._kernel, self._boot = table, desired, kernel, boot
        self.expected: Ruleset | None = None
        self.incarnation = ""

    def file(self) -> RulesFile:
        """The table's file as it is to be loaded now."""
        existing = self._kernel.interfaces() if self.table is LAST_LINE else frozenset()
        site = self._desired.site
        return rules_of(site.settings, site.rules, self.table, existing)

    def can_stand(self) -> bool:
        """Whether there is something to stand on: one of the last line's interfaces must exist."""
        return self.table is not LAST_LINE or bool(self.file().interfaces)

    def found(self) -> Ruleset | None:
        """The table as it is; None when it is not there. Another version's, which is not to be touched, is
        an error.
        """
        found = self._kernel.ruleset()
        if found is not None and self._anothers(found):
            raise KernelError(f"table {self.table.family} {TABLE} in the kernel belongs to another version "
                              f"of egressguard (it lacks chain {self.table.version_chain}); nothing was "
                              "changed")
        return found

    def settled(self, expected: Ruleset | None) -> Ruleset | None:
        """The table, looked at again where it differs: the kernel hands over what somebody is loading at this
        instant in part as it was and in part as it will be, even under one generation (seen with 6.18).
        """
        found = self.found()
        for pause_s in SETTLE_S:
            if found is None or expected is None or found.fingerprint == expected.fingerprint:
                break
            sleep(pause_s)
            found = self.found()
        return found

    def loaded(self) -> bool:
        """Whether the table is in the kernel, in this version."""
        found = self.found()
        return found is not None and not self.older(found)

    def owned_elsewhere(self) -> bool:
        """Whether another process owns the table, so that only it can change anything."""
        found = None if self._kernel.owns() else self.found()
        return found is not None and found.owned

    def older(self, found: Ruleset) -> bool:
        """Whether an earlier version made this table: what an upgrade finds."""
        return self.table.version_chain not in found.chains and self.table.older(found.chains)

    def _anothers(self, found: Ruleset) -> bool:
        """Whether another version made this table. What this process has made is ours, whatever it lacks."""
        if self.table.version_chain in found.chains or self.older(found):
            return False
        return self.expected is None or self.table.later(found.chains)

    def replaced(self, found: Ruleset, file: RulesFile) -> str:
        """Why this table cannot become what the file makes; empty when it can."""
        if self.older(found):
            return "the table was an earlier version's"
        return "the table could have no owner" if file.flags and not found.persists else ""

    @property
    def fingerprint(self) -> str:
        """That of the rules that were loaded last; empty before."""
        return self.expected.fingerprint if self.expected is not None else ""

    def verify(self, expected: Ruleset) -> None:
        """After a load: the table stands as `expected`, which is remembered, or this raises KernelError."""
        found = self.settled(expected)
        if found is None or found.fingerprint != expected.fingerprint:
            raise KernelError(f"table {self.table.family} {TABLE} is not what {self.file()} makes, right "
                              "after it was loaded: somebody else is changing it")
        self.expected = expected
        self.incarnation = incarnation(self._boot, found)
