"""Which MAC answers for an address, and who is another router: the neighbour and the routing tables."""

from collections.abc import Container
from ipaddress import ip_address

from egressguard.kernel import rtnetlink

UNPROVEN = 0x01 | 0x20 | 0x40  # incomplete, failed, and what needs no resolution (linux/neighbour.h)


def read_neighbours(wanted: Container[str]) -> dict[str, frozenset[str]]:
    """The MACs of those `wanted` addresses that the table knows. Raises KernelError."""
    found: dict[str, frozenset[str]] = {}
    for packed, mac, state in rtnetlink.read_neighbours():
        address = str(ip_address(packed))
        if address in wanted and any(mac) and not state & UNPROVEN:
            found[address] = found.get(address, frozenset()) | {mac.hex(":")}
    return found


def read_gateways() -> frozenset[str]:
    """The MACs of all next hops of our routes, as far as the table knows them. Raises KernelError."""
    hops = {gateway for way, _ in rtnetlink.read_routes() for _, gateway in way.hops if gateway}
    known = read_neighbours({str(ip_address(hop)) for hop in hops})
    return frozenset(mac for macs in known.values() for mac in macs)
