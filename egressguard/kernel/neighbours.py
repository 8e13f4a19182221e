"""The kernel's neighbour table: which MAC answers for an address, through pyroute2."""

import socket
from collections.abc import Container, Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egressguard.core.errors import KernelError

FAMILIES = (socket.AF_INET, socket.AF_INET6)
UNPROVEN = 0x01 | 0x20 | 0x40  # incomplete, failed, and what needs no resolution (linux/neighbour.h)
NO_MAC = "00:00:00:00:00:00"


def read_neighbours(wanted: Container[str]) -> dict[str, frozenset[str]]:
    """The MACs of those `wanted` addresses that the table knows. Raises KernelError."""
    try:
        with IPRoute() as route:
            return _found([e for family in FAMILIES for e in route.get_neighbours(family=family)], wanted)
    except (NetlinkError, OSError) as error:
        raise KernelError(f"reading the neighbour table: {error}") from error


def read_gateways() -> frozenset[str]:
    """The MACs of all next hops of our routes, as far as the table knows them. Raises KernelError."""
    try:
        with IPRoute() as route:
            hops = {hop for family in FAMILIES for entry in route.get_routes(family=family)
                    for hop in _next_hops(entry)}
    except (NetlinkError, OSError) as error:
        raise KernelError(f"reading the routes: {error}") from error
    return frozenset(mac for macs in read_neighbours(hops).values() for mac in macs)


def _next_hops(entry: Any) -> Iterator[str]:
    for hop in (entry, *(entry.get_attr("RTA_MULTIPATH") or ())):
        if gateway := hop.get_attr("RTA_GATEWAY"):
            yield gateway
        elif via := hop.get_attr("RTA_VIA"):
            yield via["addr"]


def _found(entries: Any, wanted: Container[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for entry in entries:
        address, mac = entry.get_attr("NDA_DST"), entry.get_attr("NDA_LLADDR")
        if address in wanted and mac and mac != NO_MAC and not entry["state"] & UNPROVEN:
            found[address] = found.get(address, frozenset()) | {mac}
    return found
