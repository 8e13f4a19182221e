"""The network interfaces of this network namespace, through pyroute2.

It is imported when it is needed: that takes as long as all the rest of most commands.
"""

import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from egressguard.core.hosts import Address
from egressguard.core.routes import Route
from egressguard.core.ruleset import Element
from egressguard.core.surroundings import Link
from egressguard.kernel.routing import read_routing

IFF_UP = 1
ARPHRD_ETHER = 1
UNIVERSE = 0
FILTERING = ("clsact", "ingress")


def _route() -> Any:
    """A socket to ask by; a context manager."""
    from pyroute2 import IPRoute

    return IPRoute()


def read_interfaces() -> frozenset[str]:
    """The names of all interfaces that exist now."""
    return frozenset(name for _, name in socket.if_nameindex())


def read_ports() -> dict[str, frozenset[str]]:
    """The ports of every bridge, by its name."""
    with _route() as route:
        found = list(route.get_links())
    bridges = {link["index"]: link.get_attr("IFLA_IFNAME") for link in found if _kind(link) == "bridge"}
    return {name: frozenset(link.get_attr("IFLA_IFNAME") for link in found
                            if link.get_attr("IFLA_MASTER") == index) for index, name in bridges.items()}


def read_macs(names: Collection[str]) -> tuple[frozenset[Element], frozenset[Element]]:
    """Those of the interfaces `names` with the MACs that this machine sends by them, those of interfaces of
    its own on top included; and those by which others' leave rightly, as a bridge's port, or that have none.
    """
    with _route() as route:
        found = {link["index"]: link for link in route.get_links()}
    own, others = set[Element](), set[Element]()
    for index, link in found.items():
        name = link.get_attr("IFLA_IFNAME")
        if name in names and (link["ifi_type"] != ARPHRD_ETHER or _enslaved(link, found)):
            others.add((name,))
        elif name in names:
            above = [other for other in found.values() if other.get_attr("IFLA_LINK") == index
                     and other.get_attr("IFLA_LINK_NETNSID") is None and other["ifi_type"] == ARPHRD_ETHER]
            own |= {(name, other.get_attr("IFLA_ADDRESS")) for other in (link, *above)}
    return frozenset(own), frozenset(others)


def _enslaved(link: Any, found: Mapping[int, Any]) -> bool:
    """Whether the interface sends what others have made: any master but a VRF, which only chooses routes."""
    master = found.get(link.get_attr("IFLA_MASTER"))
    return master is not None and _kind(master) != "vrf"


def read_links() -> tuple[Link, ...]:
    """All interfaces, with what may lead packets past the rules. Raises KernelError."""
    return read_links_and_routes(frozenset())[0]


def read_links_and_routes(inside: frozenset[str]) -> tuple[tuple[Link, ...], tuple[Route, ...]]:
    """The same, and the routes by the interfaces `inside`: a million of them are gone through once."""
    with _route() as route:
        found = list(route.get_links())
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in found}
        addresses = _addresses(route)
        filtered = {qdisc["index"] for qdisc in route.get_qdiscs() if qdisc.get_attr("TCA_KIND") in FILTERING}
    routing = read_routing({index: name for index, name in names.items() if name in inside})
    links = tuple(Link(
        name=names[link["index"]], kind=_kind(link), up=bool(link["flags"] & IFF_UP),
        master=names.get(link.get_attr("IFLA_MASTER"), ""),
        default_route=routing.defaults.get(link["index"], frozenset()), xdp=_xdp(link),
        addresses=tuple(addresses.get(link["index"], ())), filtered=link["index"] in filtered)
        for link in found)
    return links, routing.routes


def read_addresses() -> frozenset[str]:
    """The addresses of this machine itself."""
    with _route() as route:
        return frozenset(a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS") for a in route.get_addr())


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return (info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""


def _xdp(link: Any) -> bool:
    attached = link.get_attr("IFLA_XDP")
    return bool(attached is not None and attached.get_attr("IFLA_XDP_ATTACHED"))


def read_ways(addresses: Iterable[Address]) -> dict[str, str]:
    """The interface by which a packet to each of `addresses` would leave; what has no route is left out."""
    from pyroute2.netlink.exceptions import NetlinkError

    found = {}
    with _route() as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        for address in addresses:
            with suppress(NetlinkError):  # unreachable
                entry, = route.route("get", dst=str(address))
                found[str(address)] = names.get(entry.get_attr("RTA_OIF"), "")
    return found


def _addresses(route: Any) -> dict[int, list[str]]:
    """The addresses of each interface that are valid beyond its link."""
    found: dict[int, list[str]] = {}
    for address in route.get_addr():
        if address["scope"] == UNIVERSE:
            text = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            found.setdefault(address["index"], []).append(f"{text}/{address['prefixlen']}")
    return found
