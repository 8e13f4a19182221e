"""What should be in one table, and putting it there: for the daemon's rounds and for the commands alike.

Every comparison is level-triggered: it looks at what is there, not at what was done before.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic, sleep

from egressguard.config import Site
from egressguard.core import plan, wanted
from egressguard.core.errors import DatabaseError, KernelError
from egressguard.core.exposure import EVERYTHING, Deviation, joined, loose
from egressguard.core.orders import Order
from egressguard.core.plan import Changes
from egressguard.core.ruleset import LEASED, TABLE
from egressguard.core.tables import BRIDGE, LAST_LINE, ROUTER, Table
from egressguard.cutting import Cutting
from egressguard.database import Database
from egressguard.desired import Desired
from egressguard.kernel import Kernel, Ruleset, incarnation
from egressguard.kernel.rules_file import RulesFile, rules_of
from egressguard.last_good import STOOD, LastGood

log = logging.getLogger(__name__)

LOOKS_AGAIN = 2
OWNER_S, OWNER_LOOK_S = 10.0, 0.1
SETTLE_S = (0.01, 0.02)
LOOK_S = 2.0  # at most so often into the sets that packets write
FULL_COMPARE_S = 5.0  # also without a new generation: an event can be lost, a comparison cannot
LOOSENING_LEASES = frozenset(LEASED) - {"quarantine4", "quarantine6"}
ELEMENTS = "set elements differed"
COMING_AND_GOING = ("own_cgroup", "own_mac", "any_mac")  # with what they name, without anybody's doing wrong


class Enforcement:
    """A site's rules and elements in one table of a kernel; that of the router's table sees to the tables
    beside it as well. Methods raise KernelError, and DatabaseError for orders.

    `incarnation` names the life of the table that was loaded last; `last_good` is what a boot begins with;
    `faults` says by family why a table beside this one does not stand as it should: the others still do.
    `right_until_s` is when all was right last, before the last comparison; `cutting` ends connections after
    it. `standing` are the orders, `order_ended` tells that one of them is over since the last round.
    """

    def __init__(self, site: Site, kernel: Kernel, database: Database, boot: str,
                 last_good: LastGood | None = None, table: Table = ROUTER) -> None:
        self.table = table
        self._desired = Desired(site, kernel, database, table)
        self.incarnation = ""
        self.last_good = last_good
        self.kernel, self._database, self._boot = kernel, database, boot
        self.right_until_s = self._good_s = float("-inf")
        self.cutting = Cutting(kernel)
        self.faults: dict[str, str] = {}
        self._beside: dict[str, Enforcement] = {}
        self._expected: Ruleset | None = None
        self._generation = self._looked_at = -1
        self._looked_s = float("-inf")
        self.standing: list[Order] = []
        self.order_ended = False
        self._existing: object = None
        self._compared_s = float("-inf")
        self._unnoticed: tuple[Deviation, float] | None = None  # and when all was right last

    @property
    def site(self) -> Site:
        """The configuration that is enforced."""
        return self._desired.site

    @site.setter
    def site(self, site: Site) -> None:
        self._desired.site = site

    def changes(self, now_s: float, lost: Collection[str] = ()) -> Changes:
        """What differs from what should be there, now; the whole of it when the table is missing. Sets that
        are to be made anew are `lost`.
        """
        desired = self._desired
        return desired.differing(now_s, lost) if self.loaded() else desired.everything(now_s)

    def planned(self, now_s: float) -> str:
        """What `load` would do to this table, as the transaction that it would apply; empty when nothing
        differs. The rules stand in it where they differ, by what the configuration puts into their text.
        """
        found = self._table()
        if not self.stands():
            return ""
        rules = self.rules()
        expected = self.kernel.expected(rules)
        if found is None:
            return self._first(rules, self.changes(now_s))
        if self._replaced(found, rules):
            return self.kernel.rebuilding(rules, self._desired.everything(now_s))
        same = found.fingerprint == expected.fingerprint and not found.dormant
        if same and set(rules.interfaces) <= found.devices:
            return plan.transaction(self.changes(now_s), self.table)
        return self.kernel.loading(rules, found, self.changes(now_s, _lost(found, expected)))

    def _first(self, rules: RulesFile, changes: Changes) -> str:
        """Rules that nothing stands of are a file, where the file alone says what is loaded."""
        text = f'include "{rules.path.resolve()}"\n' if rules.as_written() else rules.text()
        return text + plan.transaction(changes, self.table)

    def adopt(self, site: Site, former: Site | None = None, ends_s: float = 0.0) -> None:
        """Enforces `site` from the next comparison on; with `former`, on trial until `ends_s`."""
        self._desired.site, self._desired.former, self._desired.ends_s = site, former, ends_s
        self._compared_s = float("-inf")

    @property
    def looks_later(self) -> bool:
        """Whether something was changed, and has still to be looked for where only packets write."""
        return (self._looked_at != self._generation
                or any(other.looks_later for other in self._beside.values()))

    @property
    def on_trial(self) -> bool:
        """Whether the configuration may be taken back."""
        return self._desired.former is not None

    def stands(self) -> bool:
        """Whether there is something to stand on: one of the last line's interfaces must exist."""
        return self.table is not LAST_LINE or bool(self.rules().interfaces)

    def rules(self) -> RulesFile:
        """The table's file as it is to be loaded now."""
        existing = self.kernel.interfaces() if self.table is LAST_LINE else frozenset()
        return rules_of(self.site.settings, self.site.rules, self.table, existing)

    def beside(self) -> list["Enforcement"]:
        """Those of the tables beside the router's that the configuration asks for."""
        asked = wanted.tables(self.site.settings)[1:] if self.table is ROUTER else ()
        for table in asked:
            if table.family not in self._beside:
                self._beside[table.family] = Enforcement(
                    self.site, self.kernel.beside(table), self._database, self._boot,
                    self.last_good if table is BRIDGE else None, table)
            other = self._beside[table.family]
            mine, its = self._desired, other._desired
            its.site, its.former, its.ends_s = mine.site, mine.former, mine.ends_s
        return [self._beside[table.family] for table in asked]

    def _each_beside(self, do: Callable[["Enforcement"], Deviation | None]) -> list[Deviation]:
        """What was wrong with which table beside this one; what failed stands in `faults`."""
        self.faults, found = {}, []
        for other in self.beside():
            try:
                wrong = do(other)
            except KernelError as error:
                self.faults[f"{other.table.family} rules"] = str(error)
                continue
            if wrong is not None:
                found.append(Deviation(f"{other.table.family}: {wrong.text}", wrong.loose))
        return found

    def loaded(self) -> bool:
        """Whether the table is in the kernel, in this version."""
        found = self._table()
        return found is not None and not self._older(found)

    def owned_elsewhere(self) -> bool:
        """Whether another process owns the table, so that only it can change anything."""
        found = None if self.kernel.owns() else self._table()
        return found is not None and found.owned

    def _await_owner(self, done: Callable[[float], bool], now_s: float) -> None:
        """What is written down the daemon does; waits until it has. Raises KernelError when it does not."""
        began_s = monotonic()
        while not done(now_s + monotonic() - began_s):
            if monotonic() - began_s > OWNER_S:
                raise KernelError(f"table {self.table.family} {TABLE} is owned by another process, which has "
                                  f"not done in {OWNER_S:.0f} s what is written down: is it stopped?")
            sleep(OWNER_LOOK_S)

    def apply(self, now_s: float) -> None:
        """Applies what differs, in one transaction; the rules must be loaded. Where another process owns the
        table, it does so.
        """
        if self.owned_elsewhere():
            self._await_owner(lambda at_s: not self.changes(at_s), now_s)
        else:
            changes = self.changes(now_s)
            self.kernel.apply(changes)
            self._keep(now_s)
            self.cutting.after(changes, self.site.settings)
        self._each_beside(lambda other: other.apply(now_s) if other.loaded() else None)

    def load(self, now_s: float, why: str) -> None:
        """Loads the rules, again if they are loaded, and all that differs, in one transaction.

        A table that is too damaged for that (a set made anew with another type) is replaced: its counts are
        lost, which is better than an open port. So is an earlier version's, whose sets mean something else.
        Afterwards the kernel holds what the rules file says, or this raises KernelError. What somebody has
        done to the table since the last comparison is put right by it unseen: the next `ensure` tells of it.
        """
        known, right_until_s, expected = self.incarnation, self._good_s, self._expected
        found = self._settled(self._expected) if known else None
        planned = found is not None and self._replaced(found, self.rules())
        self._load(now_s, why)
        if known and not planned and (done := self._done_by_others(known, found, expected)):
            self._unnoticed = Deviation(f"the table was {done}", EVERYTHING), right_until_s
        self._each_beside(lambda other: other.load(now_s, why))

    def _done_by_others(self, known: str, found: Ruleset | None, before: Ruleset | None) -> str:
        """How the table differed from the ones that were loaded `before` and now, if `found` tells; a table
        that has been removed and made again has another incarnation.
        """
        if self.incarnation != known:
            return "gone"
        ours = {ruleset.fingerprint for ruleset in (before, self._expected) if ruleset is not None}
        return "edited" if found is not None and (found.dormant or found.fingerprint not in ours) else ""

    def _load(self, now_s: float, why: str) -> None:
        before = self._table()
        if not self.stands():
            return
        rules = self.rules()
        expected = self.kernel.expected(rules)
        if self.owned_elsewhere():
            self._await_owner(lambda at_s: self._as_wanted(expected, at_s), now_s)
        elif before is not None and (reason := self._replaced(before, rules)):
            self.kernel.rebuild(rules, self._desired.everything(now_s))
            why += f"; {reason} and was replaced; what it had counted since the last round is lost"
        else:
            why += self._load_over(before, rules, expected, now_s)
        self._verify(expected, now_s)
        self._existing = self._desired.exists()
        self._keep(now_s)
        log.info("loaded rules=%s why=%r", rules, why)
        self.cutting.owe()  # what was there before may have let more through
        self.cutting.after((), self.site.settings)
        try:
            self._database.event(now_s, "load", why)
        except DatabaseError as error:
            log.error("not in history: %s", error)

    def _load_over(self, before: Ruleset | None, rules: RulesFile, expected: Ruleset, now_s: float) -> str:
        """Loads over what is there, or replaces it; says so if it had to.

        The daemon and a command may do the same at one instant: then the later one's differences are gone,
        and it looks again before it calls the table damaged.
        """
        for _ in range(LOOKS_AGAIN):
            with suppress(KernelError):
                found = self._table()
                self.kernel.load(rules, found, self.changes(now_s, _lost(found, expected)))
                return ""
        try:
            self.kernel.load(rules, before, self.changes(now_s, _lost(before, expected)))
        except KernelError as error:
            if before is None:
                raise
            log.error("the table is damaged and is replaced, its counts are lost: %s", error)
            self.kernel.rebuild(rules, self._desired.everything(now_s))
            return "; the table was damaged and was replaced, its counts are lost"
        return ""

    def _as_wanted(self, expected: Ruleset, now_s: float) -> bool:
        found = self._table()
        return found is not None and found.fingerprint == expected.fingerprint and not self.changes(now_s)

    def _replaced(self, found: Ruleset, rules: RulesFile) -> str:
        """Why this table cannot become what the rules make; empty when it can."""
        if self._older(found):
            return "the table was an earlier version's"
        return "the table could have no owner" if rules.flags and not found.persists else ""

    def _older(self, found: Ruleset) -> bool:
        return self.table.version_chain not in found.chains and self.table.older(found.chains)

    def _keep(self, now_s: float) -> None:
        """Writes down what now stands in the kernel, for the next boot; without what lets somebody through
        for a time: its time may be over by then. The daemon gives back what is left of it.
        """
        if self.last_good is not None and not self.on_trial:  # no boot begins with what is on trial
            lasting = [c for c in self._desired.everything(now_s) if c.set_name not in LOOSENING_LEASES]
            stood = self._fingerprint() or self.last_good.fingerprint(self.table.family)
            self.last_good.keep(f"{STOOD} {self.table.family} {stood}\n" * bool(stood) + self.rules().text() +
                                plan.transaction(tuple(lasting), self.table), self.table.family)

    def _settled(self, expected: Ruleset | None) -> Ruleset | None:
        """The table, looked at again where it differs: the kernel hands over what somebody is loading at this
        instant in part as it was and in part as it will be, even under one generation (seen with 6.18).
        """
        found = self._table()
        for pause_s in SETTLE_S:
            if found is None or expected is None or found.fingerprint == expected.fingerprint:
                break
            sleep(pause_s)
            found = self._table()
        return found

    def _verify(self, expected: Ruleset, now_s: float) -> None:
        found = self._settled(expected)
        if found is None or found.fingerprint != expected.fingerprint:
            raise KernelError(f"table {self.table.family} {TABLE} is not what {self.rules()} makes, right "
                              "after it was loaded: somebody else is changing it")
        self._expected = expected
        self.incarnation = incarnation(self._boot, found)
        self._good_s = now_s

    def found(self, now_s: float, former: Site | None) -> Deviation | None:
        """Before the first load: what somebody has done to the tables while no daemon ran. `former` is what
        was enforced; without it nobody can say which elements are somebody else's.
        """
        return joined([self._found(now_s, former),
                       *self._each_beside(lambda other: other._found(now_s, former))])

    def _found(self, now_s: float, former: Site | None) -> Deviation | None:
        stood = self.last_good.fingerprint(self.table.family) if self.last_good is not None else ""
        ruleset = self._table()
        if ruleset is None:
            gone = self.table is ROUTER or bool(stood)
            return Deviation("the table was gone when the daemon started", EVERYTHING) if gone else None
        if self._older(ruleset):
            return None
        # A command may have loaded what the file says now; an upgrade brings others than those that stood,
        # and other elements.
        known = {stood, self.kernel.expected(self.rules()).fingerprint}
        if stood and (ruleset.dormant or ruleset.fingerprint not in known):
            return Deviation("the table was edited while no daemon ran", EVERYTHING)
        same = former is not None and ruleset.fingerprint == self._enforced(former)
        changes = self._others_elements(now_s, former) if former is not None and same else ()
        return Deviation("set elements were changed while no daemon ran", loose(changes)) if changes else None

    def _enforced(self, former: Site) -> str:
        """What this version makes of the `former` configuration's rules; empty where it asks for none."""
        if self.table not in wanted.tables(former.settings):
            return ""
        return self.kernel.expected(rules_of(former.settings, former.rules, self.table)).fingerprint

    def _others_elements(self, now_s: float, former: Site) -> Changes:
        """What lets more through than `former` and the orders; what comes and goes by itself is left out."""
        changes = self._desired.differing_from(former, now_s)
        return tuple(c for c in changes if c.set_name not in COMING_AND_GOING and loose((c,)))

    def ensure(self, now_s: float) -> Deviation | None:
        """The same for this table and those beside it; tells what was wrong, if anything."""
        wrong = [self._ensure(now_s)]
        if self._unnoticed is not None:
            found, self.right_until_s = self._unnoticed
            wrong, self._unnoticed = [found, *wrong], None
        return joined([*wrong, *self._each_beside(lambda other: other.ensure(now_s))])

    def _ensure(self, now_s: float) -> Deviation | None:
        """Compares, if there is reason to, and puts right what is wrong; tells what was wrong, if anything.

        An order that began or ended is a reason, and nothing wrong; so is an interface that came or went.
        """
        generation = self.kernel.generation()
        look = generation != self._looked_at and now_s - self._looked_s >= LOOK_S
        standing = self._desired.standing(now_s)
        before = [order.number for order in self.standing]
        numbers = before if standing is None else [order.number for order in standing]
        ordered = numbers != before
        self.order_ended = bool(set(before) - set(numbers))
        if self.order_ended:
            self.cutting.owe()  # the kernel ended a permission by itself
        if (generation == self._generation and not ordered and not look
                and now_s - self._compared_s < FULL_COMPARE_S):
            self._good_s = now_s
            return None
        self.right_until_s, self.cutting.last = self._good_s, []
        existed, self._existing = self._existing, self._desired.exists()
        ordered |= existed != self._existing
        wrong = self._put_right(now_s)
        if ordered and wrong and wrong.text == ELEMENTS:
            wrong = None
        if look:
            wrong = joined([wrong, self._weed()])
            self._looked_at, self._looked_s = generation, now_s
        self._good_s = now_s
        # The number from before the comparison: our own change costs one more comparison, and a change
        # by anybody else that came in between is not overlooked.
        self._generation, self._compared_s = generation, now_s
        self.standing = self.standing if standing is None else standing
        return wrong

    def _weed(self) -> Deviation | None:
        """Removes what somebody has put into sets that only packets write: a flood may have filled them, so
        they are read only after somebody has changed something, and not in every round.
        """
        planted = self.kernel.planted() if self.stands() else ()
        if not planted:
            return None
        log.warning("elements were planted:\n%s", plan.transaction(planted, self.table))
        self.kernel.apply(planted)
        names = ", ".join(change.set_name for change in planted)
        return Deviation(f"elements were planted where only packets write ({names})")

    def _put_right(self, now_s: float) -> Deviation | None:
        ruleset, rules = self._settled(self._expected), self.rules()
        if not self.stands():
            return None
        if self._expected is None and self.table is not ROUTER:
            self._load(now_s, f"{rules} has been asked for")
            return None
        if ruleset is None or ruleset.dormant or ruleset.fingerprint != self._fingerprint():
            wrong = "gone" if ruleset is None else "dormant" if ruleset.dormant else "edited"
            self._load(now_s, f"repair: the table was {wrong}")
            return Deviation(f"the table was {wrong}", EVERYTHING)
        if rules.flags and self.kernel.claims and not ruleset.owned:
            self._load(now_s, "the table had no owner")
            return None
        missing = set(rules.interfaces) - ruleset.devices
        if missing:
            self._load(now_s, f"interface {', '.join(sorted(missing))} has appeared")
            return None
        changes = self._desired.differing(now_s)
        if changes:
            log.warning("set elements differed:\n%s", plan.transaction(changes, self.table))
            self.kernel.apply(changes)
            self._keep(now_s)
        self.cutting.after(changes, self.site.settings)
        return Deviation(ELEMENTS, loose(changes)) if changes else None

    def _fingerprint(self) -> str:
        return self._expected.fingerprint if self._expected is not None else ""

    def _table(self) -> Ruleset | None:
        found = self.kernel.ruleset()
        if found is not None and self._anothers(found):
            raise KernelError(f"table {self.table.family} {TABLE} in the kernel belongs to another version "
                              f"of egressguard (it lacks chain {self.table.version_chain}); nothing was "
                              "changed")
        return found

    def _anothers(self, found: Ruleset) -> bool:
        """Whether another version made this table. What this process has made is ours, whatever it lacks."""
        if self.table.version_chain in found.chains or self._older(found):
            return False
        return self._expected is None or self.table.later(found.chains)


def _lost(found: Ruleset | None, expected: Ruleset) -> Collection[str]:
    """The sets that loading makes anew, since somebody has made them in another way."""
    return found.strange(expected) if found is not None else ()
