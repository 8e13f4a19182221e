"""What the table's sets and maps are made with: their types, flags, room, timeout; never their elements.

Whoever makes a set anew with less room, or with another timeout, changes no rule, and yet the rules would not
count what they should: a later declaration with another size is ignored by the kernel.
"""

import struct
from collections.abc import Iterator

from egressguard.core.ruleset import TABLE
from egressguard.kernel.netlink import GETSET, Netlink, attribute, attributes, text

SET_TABLE, SET_NAME, SET_FLAGS, SET_TIMEOUT = 1, 2, 3, 11  # linux/netfilter/nf_tables.h
NO_TIMEOUT = bytes(8)
# Flags, types and lengths of key and data, policy, size and fields, timeout, interval of collection, type of
# object, expressions: all but its name, its number, and what nft writes there for itself.
SET_SAYS = frozenset({3, 4, 5, 6, 7, 8, 9, 11, 12, 15, 17, 18})
ANONYMOUS, MAP, OBJECTS = 0x1, 0x8, 0x40


def read_declared(netlink: Netlink) -> dict[str, str]:
    """Every set and map of the table: its kind, and what it is made with."""
    sets = {}
    for name, found in _sets(netlink):
        flags = struct.unpack(">I", found[SET_FLAGS])[0] if SET_FLAGS in found else 0
        if not flags & ANONYMOUS:
            kind = "map" if flags & (MAP | OBJECTS) else "set"
            made = (f"{n}:{bytes(found[n]).hex()}" for n in sorted(SET_SAYS & found.keys()))
            sets[name] = " ".join((kind, *made))
    return sets


def read_timeouts(netlink: Netlink) -> dict[str, bytes]:
    """The timeout of each set whose elements have one, as the kernel writes it: milliseconds, 8 bytes."""
    return {name: bytes(found[SET_TIMEOUT]) for name, found in _sets(netlink) if SET_TIMEOUT in found}


def _sets(netlink: Netlink) -> Iterator[tuple[str, dict[int, memoryview]]]:
    for answer in netlink.dump(GETSET, netlink.family, attribute(SET_TABLE, TABLE), "reading sets"):
        found = dict(attributes(answer))
        if text(found[SET_TABLE]) == TABLE:
            yield text(found[SET_NAME]), found
