"""What each of our tables should hold, given what the configuration says and what of it exists here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from egressguard.core import bridge_policy, orders, policy
from egressguard.core.orders import Order
from egressguard.core.ruleset import Element, Leases, Sets
from egressguard.core.settings import Settings
from egressguard.core.tables import BRIDGE, LAST_LINE, ROUTER, Table


@dataclass(frozen=True, slots=True)
class Here:
    """A configuration on this machine: the numbers of `own.users`, those of `own.cgroups` that exist, and
    the ports of every bridge. `own_macs` are the last line's interfaces with the MACs that this machine sends
    with, `any_mac` those of them by which others leave rightly.
    """

    settings: Settings
    uids: tuple[int, ...] = ()
    ports: Mapping[str, frozenset[str]] = field(default_factory=dict)
    cgroups: tuple[str, ...] = ()
    own_macs: frozenset[Element] = frozenset()
    any_mac: frozenset[Element] = frozenset()


def tables(settings: Settings) -> tuple[Table, ...]:
    """The tables that the configuration asks for."""
    return (ROUTER, *((BRIDGE,) if settings.bridge else ()),
            *((LAST_LINE,) if settings.last_line.interfaces else ()))


def kept(settings: Settings) -> tuple[str, ...]:
    """The families of those that a boot loads before the network; interfaces come later."""
    return tuple(table.family for table in tables(settings) if table is not LAST_LINE)


def elements(table: Table, here: Here) -> Sets:
    """The elements of the table's configured sets."""
    if table is BRIDGE:
        return bridge_policy.desired(here.settings, here.ports)
    if table is LAST_LINE:
        return {"own_mac": here.own_macs, "any_mac": here.any_mac,
                "blocked_ports": policy.port_sets(here.settings)["blocked_ports"]}
    return policy.desired(here.settings, here.uids, here.cgroups)


def leases(table: Table, standing: Iterable[Order], here: Here) -> Leases:
    """The elements of its leased sets, with the time that each has left."""
    if table is BRIDGE:
        return bridge_policy.leases(standing, here.settings, here.ports)
    return {} if table is LAST_LINE else orders.desired(standing, here.settings)
