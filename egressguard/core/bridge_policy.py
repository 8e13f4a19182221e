"""What the sets of rules/bridge.nft should hold: the same policy, said by the ports of bridges."""

from collections.abc import Iterable, Mapping

from egressguard.core import orders
from egressguard.core.hosts import Address
from egressguard.core.orders import Order
from egressguard.core.path_settings import Bridge, named
from egressguard.core.policy import (
    NO_FAMILY,
    count_only_sets,
    group_sets,
    inventory_sets,
    port_sets,
    sender_sets,
)
from egressguard.core.ruleset import TUNNEL_PROTOCOLS, Element, Leases, Sets
from egressguard.core.settings import Sender, Settings
from egressguard.core.tables import ETHER_FAMILIES

ETHER_NAMES = {4: "ip", 6: "ip6"}
Ports = Mapping[str, frozenset[str]]  # the ports that each existing bridge has


def desired(settings: Settings, ports: Ports) -> Sets:
    """The elements of every configured set; what a pattern names is looked up among the existing `ports`."""
    ours = {bridge.name for bridge in settings.bridge}
    others = (found for name, found in ports.items() if name not in ours)

    def places(sender: Sender, address: Address) -> Iterable[str]:
        return [port for port in _ports_of(address, settings, ports)
                if not sender.ports or any(named(pattern, port) for pattern in sender.ports)]

    return {
        "inside_if": frozenset((port,) for b in settings.bridge for port in _machine_ports(b, ports)),
        "other_port": frozenset((port,) for found in others for port in found),
        "tunnel_protocols": TUNNEL_PROTOCOLS,
        "observed_family": ETHER_FAMILIES if settings.mode == "observe" else NO_FAMILY,
        **port_sets(settings), **inventory_sets(settings), **group_sets(settings, ETHER_NAMES),
        **count_only_sets(settings), **sender_sets(settings, places), **_homes(settings, ports),
    }


def leases(standing: Iterable[Order], settings: Settings, ports: Ports) -> Leases:
    """The leased elements that the orders amount to."""
    return orders.desired(standing, settings, lambda address: _ports_of(address, settings, ports),
                          ETHER_FAMILIES)


def _machine_ports(bridge: Bridge, ports: Ports) -> frozenset[str]:
    return bridge.machine_ports(ports.get(bridge.name, frozenset()))


def _ports_of(address: Address, settings: Settings, ports: Ports) -> list[str]:
    """The machines' ports behind which `address` lives."""
    return [port for bridge in settings.bridges_of(address) for port in _machine_ports(bridge, ports)]


def _homes(settings: Settings, ports: Ports) -> Sets:
    homes: dict[str, set[Element]] = {"home4": set(), "home6": set()}
    for bridge in settings.bridge:
        for port in _machine_ports(bridge, ports):
            for network in bridge.networks:
                homes[f"home{network.version}"].add((port, str(network)))
    return {name: frozenset(elements) for name, elements in homes.items()}
