"""Keeps one table as it should be: loads it, compares it, puts right what somebody else has changed.

Every comparison is level-triggered: it looks at what is there, not at what was done before.
"""

import logging

from egressguard.config import Site
from egressguard.core import plan
from egressguard.core.errors import DatabaseError
from egressguard.core.exposure import EVERYTHING, Deviation, joined, loose
from egressguard.core.orders import Order
from egressguard.core.plan import Changes
from egressguard.core.ruleset import LEASED
from egressguard.core.tables import ROUTER, Table
from egressguard.cutting import Cutting
from egressguard.database import Database
from egressguard.desired import Desired
from egressguard.kernel import Kernel, Ruleset
from egressguard.kernel.rules_file import RulesFile
from egressguard.last_good import STOOD, LastGood
from egressguard.loading import Loading
from egressguard.standing_rules import StandingRules

log = logging.getLogger(__name__)

LOOK_S = 2.0  # at most so often into the sets that packets write
FULL_COMPARE_S = 5.0  # also without a new generation: an event can be lost, a comparison cannot
LOOSENING_LEASES = frozenset(LEASED) - {"quarantine4", "quarantine6"}
ELEMENTS = "set elements differed"


class Upkeep:
    """A site's rules and elements in one table of a kernel. Methods raise KernelError, and DatabaseError for
    orders.

    `last_good` is what a boot begins with; `right_until_s` is when all was right last, before the last
    comparison, `cutting` what that ended. `standing` are the orders, `order_ended` tells that one of them is
    over since the last round.
    """

    def __init__(self, site: Site, kernel: Kernel, database: Database, boot: str,
                 last_good: LastGood | None = None, table: Table = ROUTER) -> None:
        self.table, self.kernel, self.last_good, self._database = table, kernel, last_good, database
        self.desired = Desired(site, kernel, database, table)
        self.rules = StandingRules(self.desired, kernel, boot, table)
        self.loading = Loading(self.rules, self.desired, kernel)
        self.cutting = Cutting(kernel)
        self.right_until_s = self._good_s = float("-inf")
        self._generation = self._looked_at = -1
        self._looked_s = self._compared_s = float("-inf")
        self.standing: list[Order] = []
        self.order_ended = False
        self._existing: object = None
        self._unnoticed: tuple[Deviation, float] | None = None  # and when all was right last

    @property
    def incarnation(self) -> str:
        """Names the life of the table that was loaded last."""
        return self.rules.incarnation

    @property
    def looks_later(self) -> bool:
        """Whether something was changed, and has still to be looked for where only packets write."""
        return self._looked_at != self._generation

    def compare_soon(self) -> None:
        """The next `ensure` compares, whether or not it sees a reason."""
        self._compared_s = float("-inf")

    def apply(self, now_s: float) -> None:
        """Applies what differs, in one transaction; the rules must be loaded. Where another process owns the
        table, it does so.
        """
        changes = self.loading.apply(now_s)
        if changes is not None:
            self._keep(now_s)
            self._cut(changes)

    def load(self, now_s: float, why: str) -> None:
        """Loads the rules and all that differs in one transaction, as `Loading` does.

        What somebody has done to the table since the last comparison is put right by it unseen: the next
        `ensure` tells of it.
        """
        known, right_until_s, expected = self.incarnation, self._good_s, self.rules.expected
        found = self.rules.settled(expected) if known else None
        planned = found is not None and self.rules.replaced(found, self.rules.file())
        self._load(now_s, why)
        if known and not planned and (done := self._done_by_others(known, found, expected)):
            self._unnoticed = Deviation(f"the table was {done}", EVERYTHING), right_until_s

    def _done_by_others(self, known: str, found: Ruleset | None, before: Ruleset | None) -> str:
        """How the table differed from the ones that were loaded `before` and now, if `found` tells; a table
        that has been removed and made again has another incarnation.
        """
        if self.incarnation != known:
            return "gone"
        ours = {ruleset.fingerprint for ruleset in (before, self.rules.expected) if ruleset is not None}
        return "edited" if found is not None and (found.dormant or found.fingerprint not in ours) else ""

    def _load(self, now_s: float, why: str) -> None:
        cost = self.loading.load(now_s)
        if cost is None:
            return
        self._good_s, self._existing = now_s, self.desired.exists()
        self._keep(now_s)
        log.info("loaded rules=%s why=%r", self.rules.file(), why + cost)
        self.cutting.owe()  # what was there before may have let more through
        self._cut(())
        try:
            self._database.event(now_s, "load", why + cost)
        except DatabaseError as error:
            log.error("not in history: %s", error)

    def _keep(self, now_s: float) -> None:
        """Writes down what now stands in the kernel, for the next boot; without what lets somebody through
        for a time: its time may be over by then. The daemon gives back what is left of it.
        """
        if self.last_good is not None and not self.desired.on_trial:  # no boot begins with what is on trial
            family = self.table.family
            lasting = [c for c in self.desired.everything(now_s) if c.set_name not in LOOSENING_LEASES]
            stood = self.rules.fingerprint or self.last_good.fingerprint(family)
            self.last_good.keep(f"{STOOD} {family} {stood}\n" * bool(stood) + self.rules.file().text() +
                                plan.transaction(tuple(lasting), self.table), family)

    def _cut(self, changes: Changes) -> None:
        self.cutting.after(changes, self.desired.site.settings)

    def ensure(self, now_s: float) -> Deviation | None:
        """Compares, if there is reason to, and puts right what is wrong; tells what was wrong, if anything,
        now or before the last load.
        """
        wrong = [self._ensure(now_s)]
        if self._unnoticed is not None:
            found, self.right_until_s = self._unnoticed
            wrong, self._unnoticed = [found, *wrong], None
        return joined(wrong)

    def _ensure(self, now_s: float) -> Deviation | None:
        """Reasons are a change of the ruleset, an order that began or ended, and that it is due."""
        generation = self.kernel.generation()
        look = generation != self._looked_at and now_s - self._looked_s >= LOOK_S
        standing = self.desired.standing(now_s)
        standing = self.standing if standing is None else standing
        ordered = self._reordered(standing)
        if (generation == self._generation and not ordered and not look
                and now_s - self._compared_s < FULL_COMPARE_S):
            self._good_s = now_s
            return None
        self.right_until_s, self.cutting.last = self._good_s, []
        wrong = self._put_right(ordered, now_s)
        if look:
            wrong = joined([wrong, self._weed()])
            self._looked_at, self._looked_s = generation, now_s
        self._good_s = now_s
        # The number from before the comparison: our own change costs one more comparison, and a change
        # by anybody else that came in between is not overlooked.
        self._generation, self._compared_s, self.standing = generation, now_s, standing
        return wrong

    def _reordered(self, standing: list[Order]) -> bool:
        """Whether other orders stand than before; one that is over may have permitted connections."""
        before, now = ([order.number for order in orders] for orders in (self.standing, standing))
        self.order_ended = bool(set(before) - set(now))
        if self.order_ended:
            self.cutting.owe()  # the kernel ended a permission by itself
        return now != before

    def _put_right(self, ordered: bool, now_s: float) -> Deviation | None:
        """An order that began or ended changes elements, and is nothing wrong; so does an interface that came
        or went.
        """
        existed, self._existing = self._existing, self.desired.exists()
        found, file = self.rules.settled(self.rules.expected), self.rules.file()
        if not self.rules.can_stand():
            return None
        if (load := self._reason_to_load(found, file)) is not None:
            why, wrong = load
            self._load(now_s, why)
            return wrong
        wrong = self._put_elements_right(now_s)
        return None if ordered or existed != self._existing else wrong

    def _reason_to_load(self, found: Ruleset | None, file: RulesFile) -> tuple[str, Deviation | None] | None:
        """Why the rules must be loaded, and what was wrong, if anything; None where they stand."""
        if self.rules.expected is None and self.table is not ROUTER:
            return f"{file} has been asked for", None
        if found is None or found.dormant or found.fingerprint != self.rules.fingerprint:
            harm = "gone" if found is None else "dormant" if found.dormant else "edited"
            return f"repair: the table was {harm}", Deviation(f"the table was {harm}", EVERYTHING)
        if file.flags and self.kernel.claims and not found.owned:
            return "the table had no owner", None
        if missing := sorted(set(file.interfaces) - found.devices):
            return f"interface {', '.join(missing)} has appeared", None
        return None

    def _put_elements_right(self, now_s: float) -> Deviation | None:
        changes = self.desired.differing(now_s) and self.loading.put_right(now_s)
        if changes:
            log.warning("set elements differed:\n%s", plan.transaction(changes, self.table))
            self._keep(now_s)
        self._cut(changes)
        return Deviation(ELEMENTS, loose(changes)) if changes else None

    def _weed(self) -> Deviation | None:
        """Removes what somebody has put into sets that only packets write: a flood may have filled them, so
        they are read only after somebody has changed something, and not in every round.
        """
        planted = self.kernel.planted() if self.rules.can_stand() else ()
        if not planted:
            return None
        log.warning("elements were planted:\n%s", plan.transaction(planted, self.table))
        self.kernel.apply(planted)
        names = ", ".join(change.set_name for change in planted)
        return Deviation(f"elements were planted where only packets write ({names})")
