"""Makes one table what its rules file and the configuration say, in one transaction, and says what that is.

Afterwards the kernel holds what the file makes, or somebody is told why not.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, sleep

from egressguard.core import plan
from egressguard.core.errors import KernelError
from egressguard.core.plan import Changes
from egressguard.core.ruleset import TABLE
from egressguard.core.tables import Table
from egressguard.desired import Desired
from egressguard.kernel import Kernel, Ruleset
from egressguard.kernel.rules_file import RulesFile
from egressguard.standing_rules import StandingRules

log = logging.getLogger(__name__)

LOOKS_AGAIN = 2
OWNER_S, OWNER_LOOK_S = 10.0, 0.1


class Loading:
    """Of one table. Where another process owns it, that one does what is written down, and is waited for.
    Methods raise KernelError.
    """

    def __init__(self, rules: StandingRules, desired: Desired, kernel: Kernel) -> None:
        self._rules, self._desired, self._kernel = rules, desired, kernel

    def planned(self, now_s: float) -> str:
        """What `load` would do, as the transaction that it would apply; empty when nothing differs. The rules
        stand in it where they differ, by what the configuration puts into their text.
        """
        found = self._rules.found()
        if not self._rules.can_stand():
            return ""
        file = self._rules.file()
        expected = self._kernel.expected(file)
        if found is None:
            return self._first(file, self._changes(now_s))
        if self._rules.replaced(found, file):
            return self._kernel.rebuilding(file, self._desired.everything(now_s))
        same = found.fingerprint == expected.fingerprint and not found.dormant
        if same and set(file.interfaces) <= found.devices:
            return plan.transaction(self._changes(now_s), self._rules.table)
        return self._kernel.loading(file, found, self._changes(now_s, _lost(found, expected)))

    def _first(self, file: RulesFile, changes: Changes) -> str:
        """Rules that nothing stands of are a file, where the file alone says what is loaded."""
        text = f'include "{file.path.resolve()}"\n' if file.as_written() else file.text()
        return text + plan.transaction(changes, self._rules.table)

    def load(self, now_s: float) -> str | None:
        """Loads the rules, again if they are loaded, and all that differs; what it has cost, in words, or
        None where there is nothing to stand on.

        A table that is too damaged for that (a set made anew with another type) is replaced: its counts are
        lost, which is better than an open port. So is an earlier version's, whose sets mean something else.
        """
        before = self._rules.found()
        if not self._rules.can_stand():
            return None
        file = self._rules.file()
        expected = self._kernel.expected(file)
        cost = self._load(before, file, expected, now_s)
        self._rules.verify(expected)
        return cost

    def _load(self, before: Ruleset | None, file: RulesFile, expected: Ruleset, now_s: float) -> str:
        if self._rules.owned_elsewhere():
            _await_owner(self._rules.table, lambda at_s: self._as_wanted(expected, at_s), now_s)
            return ""
        if before is not None and (reason := self._rules.replaced(before, file)):
            self._kernel.rebuild(file, self._desired.everything(now_s))
            return f"; {reason} and was replaced; what it had counted since the last round is lost"
        return self._load_over(before, file, expected, now_s)

    def _load_over(self, before: Ruleset | None, file: RulesFile, expected: Ruleset, now_s: float) -> str:
        """Loads over what is there, or replaces it; says so if it had to.

        The daemon and a command may do the same at one instant: then the later one's differences are gone,
        and it looks again before it calls the table damaged.
        """
        for _ in range(LOOKS_AGAIN):
            with suppress(KernelError):
                found = self._rules.found()
                self._kernel.load(file, found, self._changes(now_s, _lost(found, expected)))
                return ""
        try:
            self._kernel.load(file, before, self._changes(now_s, _lost(before, expected)))
        except KernelError as error:
            if before is None:
                raise
            log.error("the table is damaged and is replaced, its counts are lost: %s", error)
            self._kernel.rebuild(file, self._desired.everything(now_s))
            return "; the table was damaged and was replaced, its counts are lost"
        return ""

    def apply(self, now_s: float) -> Changes | None:
        """Applies what differs from what should be there; the rules must be loaded. Which changes that were,
        or None where the table's owner made them.
        """
        if self._rules.owned_elsewhere():
            _await_owner(self._rules.table, lambda at_s: not self._changes(at_s), now_s)
            return None
        return self.put_right(now_s)

    def put_right(self, now_s: float) -> Changes:
        """Applies what differs; which changes that were.

        The daemon and a command may do the same at one instant, as a command's change of the router's table
        wakes the daemon: then the later one's differences are gone, and it looks again.
        """
        for _ in range(LOOKS_AGAIN):
            changes = self._changes(now_s)
            with suppress(KernelError):
                self._kernel.apply(changes)
                return changes
        changes = self._changes(now_s)
        self._kernel.apply(changes)
        return changes

    def _changes(self, now_s: float, lost: Collection[str] = ()) -> Changes:
        """What differs from what should be there, now; the whole of it when the table is missing. Sets that
        are to be made anew are `lost`.
        """
        desired = self._desired
        return desired.differing(now_s, lost) if self._rules.loaded() else desired.everything(now_s)

    def _as_wanted(self, expected: Ruleset, now_s: float) -> bool:
        found = self._rules.found()
        return found is not None and found.fingerprint == expected.fingerprint and not self._changes(now_s)


def _lost(found: Ruleset | None, expected: Ruleset) -> Collection[str]:
    """The sets that loading makes anew, since somebody has made them in another way."""
    return found.strange(expected) if found is not None else ()


def _await_owner(table: Table, done: Callable[[float], bool], now_s: float) -> None:
    """What is written down the daemon does; waits until it has. Raises KernelError when it does not."""
    began_s = monotonic()
    while not done(now_s + monotonic() - began_s):
        if monotonic() - began_s > OWNER_S:
            raise KernelError(f"table {table.family} {TABLE} is owned by another process, which has "
                              f"not done in {OWNER_S:.0f} s what is written down: is it stopped?")
        sleep(OWNER_LOOK_S)
