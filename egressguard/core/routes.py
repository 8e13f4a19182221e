"""Which routes lead to the Internet, and which lead out of the site by an inside interface."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Network, collapse_addresses

from egressguard.core.path_settings import Network

# No site is as wide: 0.0.0.0/1 and 128.0.0.0/1, or 2000::/3, stand for a default route.
WIDEST = {4: 3, 6: 16}
# And none has as many networks behind one interface: it holds a table of the Internet without a default.
MANY = 10_000
MULTICAST, UNIQUE_LOCAL = IPv6Network("ff00::/8"), IPv6Network("fc00::/7")  # as short, and not the Internet's


@dataclass(frozen=True, slots=True)
class Route:
    """A way to `network` by `interface`; `onward` when another router stands there."""

    interface: str
    network: Network
    onward: bool = False


def wide(network: Network) -> bool:
    """Whether only the Internet is as wide as `network`."""
    if isinstance(network, IPv6Network) and (network.subnet_of(MULTICAST) or network.subnet_of(UNIQUE_LOCAL)):
        return False
    return network.prefixlen <= WIDEST[network.version]


def stray(routes: Iterable[Route], inside: Iterable[Network]) -> Iterator[Route]:
    """The `routes` that lead to what lies in none of the `inside` networks, nor in several together."""
    declared = list(inside)
    known: dict[int, list[Network]] = {
        4: list(collapse_addresses(n for n in declared if n.version == 4)),
        6: list(collapse_addresses(n for n in declared if n.version == 6))}
    for route in routes:
        network = route.network
        local = network.is_link_local or network.is_multicast or network.is_loopback
        if not local and not any(_within(network, other) for other in known[network.version]):
            yield route


def _within(network: Network, other: Network) -> bool:
    # Of one family, which a type checker cannot know.
    return (network.prefixlen >= other.prefixlen
            and other.network_address <= network.network_address <= other.broadcast_address)  # type: ignore[operator]
