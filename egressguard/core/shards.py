"""The inventory's counters lie in many small sets: the kernel's time to list one grows with the square of its
size, because it begins anew with every 32 kB that it hands out and steps over what it has handed out already.

Some bits of an address choose its set. They stand apart, so that address plans of any step spread: /64s or
/60s or /48s one after another, every address of a network or one in each.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

SHARDS = 64
BITS = {4: (0, 2, 4, 6, 8, 10), 6: (64, 66, 68, 72, 80, 82)}  # of 2^0 and up; an IPv6 host is a whole /64
ADDRESS = {4: IPv4Address, 6: IPv6Address}


def _mask(number: int, version: int) -> int:
    """The bits of shard `number`, where they stand in an address."""
    return sum(1 << bit for place, bit in enumerate(BITS[version]) if number >> place & 1)


MASKS = {version: _mask(SHARDS - 1, version) for version in BITS}
NAMES = {version: tuple(f"known{version}_{number:02}" for number in range(SHARDS)) for version in BITS}
_NAME_OF = {version: {_mask(number, version): name for number, name in enumerate(NAMES[version])}
            for version in BITS}


def shard_of(address: IPv4Address | IPv6Address) -> str:
    """The name of the set that counts the attempts of the host with this address."""
    version = address.version
    return _NAME_OF[version][int(address) & MASKS[version]]


def spread(addresses: Iterable[IPv4Address | IPv6Address]) -> dict[str, set[tuple[str]]]:
    """Every shard with its addresses."""
    shards: dict[str, set[tuple[str]]] = {name: set() for names in NAMES.values() for name in names}
    for address in addresses:
        shards[shard_of(address)].add((str(address),))
    return shards


def block() -> str:
    """The end of rules/egressguard.nft but for its last lines: sets, chains, and which address goes where."""
    kinds = {4: ("ipv4_addr", "ip saddr"), 6: ("ipv6_addr", "ip6 saddr & ffff:ffff:ffff:ffff::")}
    every = [(version, name) for version in NAMES for name in NAMES[version]]
    places = [(version, value, name) for version in NAMES for value, name in _NAME_OF[version].items()]
    return "\n".join((
        "table inet egressguard {",
        *(f"\tset {name} {{ type {kinds[version][0]}; counter; }}" for version, name in every),
        *(f"\tchain {name} {{ }}" for _, name in every),
        "}",
        *(f"flush chain inet egressguard {name}" for _, name in every),
        *(f"flush map inet egressguard shard{version}" for version in NAMES),
        "table inet egressguard {",
        *(f"\tchain {name} {{ {kinds[version][1]} @{name} goto inventory_destination; goto stranger; }}"
          for version, name in every),
        "}",
        *(f"add element inet egressguard shard{version} {{ {ADDRESS[version](value)} : goto {name} }}"
          for version, value, name in places),
        ""))
