"""What should be in one table of a kernel, and how what is there differs: the configuration in force, a
trial, and the standing orders, with what exists on this machine of what they name.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from egressguard.config import Site
from egressguard.core import plan, trial, wanted
from egressguard.core.errors import DatabaseError
from egressguard.core.orders import Order
from egressguard.core.plan import Changes
from egressguard.core.ruleset import Element, Leases, Sets
from egressguard.core.tables import BRIDGE, LAST_LINE, ROUTER, Table
from egressguard.core.wanted import Here
from egressguard.database import Database
from egressguard.kernel import Kernel, cgroups

log = logging.getLogger(__name__)

NOTHING: frozenset[Element] = frozenset()


class Desired:
    """A site's elements in one table; with a `former` site, this one is on trial until `ends_s`."""

    def __init__(self, site: Site, kernel: Kernel, database: Database, table: Table) -> None:
        self.site, self.ends_s = site, 0.0
        self.former: Site | None = None
        self._kernel, self._database, self._table = kernel, database, table
        self._wanted: tuple[Here, Sets] | None = None

    def adopt(self, site: Site, former: Site | None, ends_s: float) -> None:
        """Wants `site` from now on; with `former`, on trial until `ends_s`."""
        self.site, self.former, self.ends_s = site, former, ends_s

    @property
    def on_trial(self) -> bool:
        """Whether the configuration may be taken back."""
        return self.former is not None

    def differing(self, now_s: float, lost: Collection[str] = ()) -> Changes:
        """What differs in a table that is loaded; sets that are to be made anew are `lost`."""
        have: Sets = {name: NOTHING if name in lost else found for name, found in self._kernel.sets().items()}
        leases = {name: {} if name in lost else found for name, found in self._kernel.leases().items()}
        standing = self.standing(now_s)
        here = self._here()
        ordered = leases if standing is None else wanted.leases(self._table, standing, here)
        changes = self._timed(plan.diff(have, self._elements(here)), self._kernel.lasting(), here, now_s)
        return (*changes, *plan.lease_diff(leases, ordered))

    def differing_from(self, former: Site, now_s: float) -> Changes:
        """What differs from what a `former` site and the orders ask for; nothing while the latter are not
        known. Ports of bridges that are gone meanwhile are left out.
        """
        standing = self.standing(now_s)
        if standing is None:
            return ()
        here = replace(self._here(), settings=former.settings, uids=former.uids)
        gone = self._gone(here)
        have = {name: frozenset(e for e in found if not gone(name, e))
                for name, found in self._kernel.sets().items()}
        leases = {name: {e: left_s for e, left_s in found.items() if not gone(name, e)}
                  for name, found in self._kernel.leases().items()}
        return (*plan.diff(have, wanted.elements(self._table, here)),
                *plan.lease_diff(leases, wanted.leases(self._table, standing, here)))

    def _gone(self, here: Here) -> Callable[[str, Element], bool]:
        """Tells an element of a set that is about a port which no bridge has now."""
        ports = {port for found in here.ports.values() for port in found}
        return lambda name, element: (self._table is BRIDGE and self._table.fields(name)[0] == "ifname"
                                      and element[0] not in ports)

    def everything(self, now_s: float) -> Changes:
        """Every element, for a table that is made anew."""
        here = self._here()
        ordered = wanted.leases(self._table, self.standing(now_s) or [], here)
        nothing: Leases = {name: {} for name in self._table.leased}
        changes = plan.diff({name: frozenset() for name in self._table.configured}, self._elements(here))
        return (*self._timed(changes, {}, here, now_s), *plan.lease_diff(nothing, ordered))

    def _elements(self, here: Here) -> Sets:
        """What the configured sets should hold: worked out once for each configuration, for it may name a
        hundred thousand hosts.
        """
        if self._wanted is None or self._wanted[0].settings is not here.settings or self._wanted[0] != here:
            self._wanted = here, wanted.elements(self._table, here)
        return self._wanted[1]

    def _timed(self, changes: Changes, lasting: Leases, here: Here, now_s: float) -> Changes:
        """What a trial adds ends by itself; what was confirmed, or was there before, does not."""
        want, temporary = self._elements(here), Leases()
        if self.former is not None:
            former = replace(here, settings=self.former.settings, uids=self.former.uids)
            temporary = trial.temporary(want, wanted.elements(self._table, former), self.ends_s - now_s)
        return trial.timed(changes, want, lasting, temporary)

    def _here(self) -> Here:
        """The site, and what exists now of what it names by pattern."""
        ports = self._kernel.ports() if self._table is BRIDGE else {}
        groups = cgroups.existing(self.site.settings.own.cgroups) if self._table is ROUTER else ()
        macs = self._kernel.macs(self.site.settings.last_line.interfaces) if self._table is LAST_LINE else ()
        return Here(self.site.settings, self.site.uids, ports, groups, *macs)

    def exists(self) -> object:
        """What comes and goes on this machine without anybody's doing wrong."""
        here = self._here()
        return here.ports, cgroups.numbers(here.cgroups), here.own_macs, here.any_mac

    def standing(self, now_s: float) -> list[Order] | None:
        """The standing orders; None while the database cannot tell: then leases are left to end alone."""
        try:
            return self._database.orders(now_s)
        except DatabaseError as error:
            log.error("orders are not known, leases stay as they are: %s", error)
            return None
