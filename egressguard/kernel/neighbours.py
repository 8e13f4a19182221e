"""The kernel's neighbour table: which MAC answers for an address, through pyroute2."""

import socket
from collections.abc import Container
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


def _found(entries: Any, wanted: Container[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for entry in entries:
        address, mac = entry.get_attr("NDA_DST"), entry.get_attr("NDA_LLADDR")
        if address in wanted and mac and mac != NO_MAC and not entry["state"] & UNPROVEN:
            found[address] = found.get(address, frozenset()) | {mac}
    return found
