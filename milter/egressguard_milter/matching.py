"""Which of several keys fits best: full address, network (the longest prefix), host name, its parents.

IPv4 and IPv6 alike; an IPv4-mapped IPv6 address is the IPv4 address.
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Generic, TypeVar

from egressguard.core.hosts import Address, Host, canonical_address

Network = IPv4Network | IPv6Network
T = TypeVar("T")

LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
NAME = re.compile(rf"(?=.{{1,253}}$)({LABEL}\.)*{LABEL}")
NULL_SENDER = "<>"
MAPPED = IPv6Network("::ffff:0:0/96")


def parse_match(text: str) -> Address | Network | str:
    """What `text` names: an address, a network, a host name. Raises ValueError with what would be right."""
    plain = text.strip().removeprefix("[").removesuffix("]")
    try:
        if "/" not in plain:
            return canonical_address(plain)
        network = _unmapped(ip_network(plain))
        whole = network.prefixlen == network.max_prefixlen
        return canonical_address(str(network.network_address)) if whole else network
    except ValueError as error:
        name = plain.lower().strip(".")
        if "/" in plain or ":" in plain or not NAME.fullmatch(name) or name.replace(".", "").isdigit():
            raise ValueError(f"{text[:80]!r} is no address, network or host name "
                             f"({str(error)[:120]})") from None
        return name


def _unmapped(network: Network) -> Network:
    """Raises ValueError for a network of IPv4-mapped addresses, which no client has: it would never match."""
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        right = ip_network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - MAPPED.prefixlen))
        raise ValueError(f"it is IPv4 in IPv6: write {right}")
    return network


def parse_sender(text: str) -> str:
    """The key of a rule for senders: `user@domain`, `user@` (in any domain), a domain, or `<>`."""
    plain = text.strip().lower()
    if plain == NULL_SENDER:
        return plain
    user, at, domain = plain.strip("<>").rpartition("@")
    if not at:
        user, domain = "", plain.strip(".")
    if (domain and not NAME.fullmatch(domain)) or not (user or domain) or len(plain) > 320:
        raise ValueError(f"{text[:80]!r} is no sender: write user@example.org, example.org, user@ or <>")
    return f"{user}@{domain}" if at else domain


def address_of_host(host: Host) -> Address | None:
    """An address of the host with this key: its only one, or the first of its /64; None if it is no key."""
    try:
        return canonical_address(host.partition("/")[0])
    except ValueError:
        return None


def parents(name: str) -> Iterator[str]:
    """`name` and the domains above it, the closest first."""
    while name:
        yield name
        name = name.partition(".")[2]


class Matcher(Generic[T]):
    """Values by address, network and name."""

    def __init__(self, entries: Iterable[tuple[Address | Network | str, T]]) -> None:
        self._addresses: dict[Address, T] = {}
        self._names: dict[str, T] = {}
        networks: dict[tuple[int, int], dict[int, T]] = {}
        for key, value in entries:
            if isinstance(key, str):
                self._names.setdefault(key, value)
            elif isinstance(key, (IPv4Network, IPv6Network)):
                network = networks.setdefault((key.version, key.prefixlen), {})
                network.setdefault(int(key.network_address) >> (key.max_prefixlen - key.prefixlen), value)
            else:
                self._addresses.setdefault(key, value)
        self._networks = sorted(networks.items(), key=lambda item: -item[0][1])

    def names(self, address: Address) -> bool:
        """Whether a value is kept for exactly this address."""
        return address in self._addresses

    def find(self, address: Address | None, name: str) -> list[T]:
        """Every value that fits, the most specific first."""
        found: list[T] = []
        if address is not None:
            if address in self._addresses:
                found.append(self._addresses[address])
            number, bits = int(address), address.max_prefixlen
            for (version, length), values in self._networks:
                if version == address.version and number >> (bits - length) in values:
                    found.append(values[number >> (bits - length)])
        found += [self._names[n] for n in parents(name) if n in self._names]
        return found
