"""Where the routing tables lead: by which interfaces to the Internet, and to what by chosen ones."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from egressguard.core.path_settings import Network
from egressguard.core.routes import MANY, WIDEST, Route, wide
from egressguard.kernel.rtnetlink import read_routes

ANYWHERE = {4: bytes(4), 6: bytes(16)}
EVERY_TABLE, RT_TABLE_MAIN = 0, 254


@dataclass(frozen=True, slots=True)
class Routing:
    """By an interface's index the families of which it has a default route, or as good as one
    (`core.routes`); and the routes by the interfaces that were asked for, each hop one of them, once.
    """

    defaults: Mapping[int, frozenset[int]]
    routes: tuple[Route, ...]


def read_routing(wanted: Mapping[int, str], table: int = EVERY_TABLE) -> Routing:
    """The state now, with the routes by the `wanted` interfaces (index → name) in `table`, as many of each
    interface and family as tell that the Internet lies there. Raises KernelError.
    """
    several, defaults = Counter[tuple[int, int]](), set[tuple[int, int]]()
    found: dict[Route, None] = {}
    for way, destination in read_routes():
        for index, gateway in way.hops:
            place = index, way.version
            several[place] += 1
            if way.length <= WIDEST[way.version] and wide(_network(way.version, destination, way.length)):
                defaults.add(place)
            if index in wanted and table in (EVERY_TABLE, way.table) and several[place] <= MANY:
                network = _network(way.version, destination, way.length)
                found[Route(wanted[index], network, bool(gateway))] = None
    defaults |= {place for place, routes in several.items() if routes >= MANY}
    return Routing({index: frozenset(version for other, version in defaults if other == index)
                    for index, _ in defaults}, tuple(found))


def _network(version: int, destination: bytes, length: int) -> Network:
    address = destination or ANYWHERE[version]
    return IPv6Network((address, length)) if version == 6 else IPv4Network((address, length))
