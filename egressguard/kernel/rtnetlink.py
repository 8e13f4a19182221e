"""Routes and neighbours over one raw rtnetlink socket: a router of the Internet has a million routes, for
which pyroute2 takes minutes.

Layouts: linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h, in the machine's byte order.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

from egressguard.core.errors import KernelError
from egressguard.kernel.netlink import NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attributes

RTM_GETROUTE, RTM_GETNEIGH = 26, 30
RTN_UNICAST = 1
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 9, 15, 18
NDA_DST, NDA_LLADDR = 1, 2
VERSION = {socket.AF_INET: 4, socket.AF_INET6: 6}

_HEADER = struct.Struct("=IHHII")
# rtmsg: family, prefix length, source's, TOS, table, protocol, scope, type, flags
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, interface, state, flags, type
_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, weight, interface
_ATTRIBUTE, _NUMBER = struct.Struct("=HH"), struct.Struct("=I")
_BUFFER_BYTES = 1 << 20
_TIMEOUT_S = 10.0

Hops = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """What most routes of a table have in common: family (4 or 6), prefix length, type and table, and `hops`:
    each an interface's index with the next router's address, empty when the network is on the interface.
    """

    version: int
    length: int
    kind: int
    table: int
    hops: Hops
    destination: bytes = b""


def read_routes() -> Iterator[tuple[Way, bytes]]:
    """Every unicast route of every routing table, with its destination's address; a default route may have
    none. Raises KernelError.

    What routes have in common is read once: with a million of them each microsecond is a second.
    """
    for family in VERSION:
        for message in _dump(RTM_GETROUTE, _ROUTE.pack(family, *[0] * 8), "reading the routes"):
            destination, rest = _parted(message)
            way = _way(rest)
            if way.kind == RTN_UNICAST:
                yield way, destination or way.destination


def _parted(message: bytes) -> tuple[bytes, bytes]:
    """The destination's address, where the kernel puts it, and all the rest."""
    for start in (_ROUTE.size, _ROUTE.size + 8):  # IPv6; IPv4, behind the table
        if len(message) > start + 4:
            length, kind = _ATTRIBUTE.unpack_from(message, start)
            if kind == RTA_DST:
                return message[start + 4:start + length], message[:start] + message[start + length:]
    return b"", message


@lru_cache(maxsize=4096)
def _way(message: bytes) -> Way:
    family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message)
    found = _attributes(message, _ROUTE.size)
    if RTA_TABLE in found:
        table, = _NUMBER.unpack(found[RTA_TABLE])
    one = ((_NUMBER.unpack(found[RTA_OIF])[0], _gateway(found)),) if RTA_OIF in found else ()
    return Way(VERSION.get(family, 0), length, kind, table,
               (*one, *_several(found.get(RTA_MULTIPATH, b""))), found.get(RTA_DST, b""))


def _several(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _HOP.size <= len(data):
        length, _, _, interface = _HOP.unpack_from(data, position)
        yield interface, _gateway(_attributes(data[position:position + length], _HOP.size))
        position += max((length + 3) & ~3, _HOP.size)


def _gateway(found: dict[int, bytes]) -> bytes:
    """The next router's address, also of the other family (RTA_VIA begins with its family)."""
    return found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]


def read_neighbours() -> Iterator[tuple[bytes, bytes, int]]:
    """What the neighbour tables have: address, MAC and state (linux/neighbour.h). Raises KernelError."""
    for family in VERSION:
        for message in _dump(RTM_GETNEIGH, _NEIGHBOUR.pack(family, 0, 0, 0, 0), "reading the neighbours"):
            found = _attributes(message, _NEIGHBOUR.size)
            if NDA_DST in found and NDA_LLADDR in found:
                yield found[NDA_DST], found[NDA_LLADDR], _NEIGHBOUR.unpack_from(message)[2]


def _attributes(message: bytes, start: int) -> dict[int, bytes]:
    """By type, as bytes: what is remembered of a message must not hold all that came with it."""
    return {kind: bytes(payload) for kind, payload in attributes(memoryview(message)[start:])}


def _dump(kind: int, request: bytes, what: str) -> Iterator[bytes]:
    """The messages that answer a dump. A table that changes meanwhile is read as it comes: no question here
    is about a single route.
    """
    head = _HEADER.pack(_HEADER.size + len(request), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                               socket.NETLINK_ROUTE)) as asked:
        asked.settimeout(_TIMEOUT_S)
        try:
            asked.send(head + request)
            while True:
                data = asked.recv(_BUFFER_BYTES)
                position = 0
                while position + _HEADER.size <= len(data):
                    length, answer, _, _, _ = _HEADER.unpack_from(data, position)
                    if answer in (NLMSG_ERROR, NLMSG_DONE):
                        _raise_error(data, position, what)
                        return
                    yield data[position + _HEADER.size:position + length]
                    position += (length + 3) & ~3
        except OSError as error:
            raise KernelError(f"{what}: {error.strerror or error}") from error


def _raise_error(data: bytes, position: int, what: str) -> None:
    code = -struct.unpack_from("=i", data, position + _HEADER.size)[0]
    if code:
        raise KernelError(f"{what}: {os.strerror(code)}")
