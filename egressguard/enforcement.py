"""What should be in our tables, and putting it there: for the daemon's rounds and for the commands alike.

The router's table comes first, and what fails in it is an error; one beside it that fails leaves the others
standing.
"""

from collections.abc import Callable

from egressguard import unwatched
from egressguard.config import Site
from egressguard.core import wanted
from egressguard.core.errors import KernelError
from egressguard.core.exposure import Deviation, joined
from egressguard.core.tables import BRIDGE
from egressguard.database import Database
from egressguard.kernel import Kernel
from egressguard.last_good import LastGood
from egressguard.upkeep import Upkeep


class Enforcement:
    """A site's rules and elements in the tables that it asks for. Methods raise KernelError, and
    DatabaseError for orders.

    `router` keeps the router's table, `last_good` is what a boot begins with; `faults` says by family why a
    table beside the router's does not stand as it should: the others still do.
    """

    def __init__(self, site: Site, kernel: Kernel, database: Database, boot: str,
                 last_good: LastGood | None = None) -> None:
        self.router = Upkeep(site, kernel, database, boot, last_good)
        self.last_good = last_good
        self.faults: dict[str, str] = {}
        self._database, self._boot = database, boot
        self._beside: dict[str, Upkeep] = {}

    @property
    def site(self) -> Site:
        """The configuration that is enforced."""
        return self.router.desired.site

    @property
    def on_trial(self) -> bool:
        """Whether the configuration may be taken back."""
        return self.router.desired.on_trial

    @property
    def looks_later(self) -> bool:
        """Whether something was changed, and has still to be looked for where only packets write."""
        return any(one.looks_later for one in (self.router, *self._beside.values()))

    def adopt(self, site: Site, former: Site | None = None, ends_s: float = 0.0) -> None:
        """Enforces `site` from the next comparison on; with `former`, on trial until `ends_s`."""
        self.router.desired.adopt(site, former, ends_s)
        self.router.compare_soon()

    def beside(self) -> list[Upkeep]:
        """Those of the tables beside the router's that the configuration asks for."""
        asked, mine = wanted.tables(self.site.settings)[1:], self.router.desired
        for table in asked:
            if table.family not in self._beside:
                self._beside[table.family] = Upkeep(
                    self.site, self.router.kernel.beside(table), self._database, self._boot,
                    self.last_good if table is BRIDGE else None, table)
            self._beside[table.family].desired.adopt(mine.site, mine.former, mine.ends_s)
        return [self._beside[table.family] for table in asked]

    def _each_beside(self, do: Callable[[Upkeep], Deviation | None]) -> list[Deviation]:
        """What was wrong with which table beside the router's; what failed stands in `faults`."""
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
        """Whether the router's table is in the kernel, in this version."""
        return self.router.rules.loaded()

    def owned_elsewhere(self) -> bool:
        """Whether another process owns it, so that only that one can change anything."""
        return self.router.rules.owned_elsewhere()

    def planned(self, now_s: float) -> str:
        """What `load` would do, as the transactions that it would apply; empty when nothing differs."""
        return "".join(one.loading.planned(now_s) for one in (self.router, *self.beside()))

    def apply(self, now_s: float) -> None:
        """Applies what differs, a transaction for each table; the router's rules must be loaded."""
        self.router.apply(now_s)
        self._each_beside(lambda other: other.apply(now_s) if other.rules.loaded() else None)

    def load(self, now_s: float, why: str) -> None:
        """Loads the rules and all that differs, a transaction for each table. Afterwards the kernel holds
        what the router's rules file says, or this raises KernelError.
        """
        self.router.load(now_s, why)
        self._each_beside(lambda other: other.load(now_s, why))

    def found(self, now_s: float, former: Site | None) -> Deviation | None:
        """Before the first load: what somebody has done to the tables while no daemon ran. `former` is what
        was enforced, None where nobody knows.
        """
        return joined([unwatched.done_to(self.router, now_s, former),
                       *self._each_beside(lambda other: unwatched.done_to(other, now_s, former))])

    def ensure(self, now_s: float) -> Deviation | None:
        """Compares every table, if there is reason to, and puts right what is wrong; tells what that was."""
        return joined([self.router.ensure(now_s), *self._each_beside(lambda other: other.ensure(now_s))])
