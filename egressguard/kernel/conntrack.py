"""Connection tracking over the raw netlink socket: finding and ending the connections to some ports.

Layouts: linux/netfilter/nfnetlink_conntrack.h. The kernel filters by protocol and port itself (CTA_FILTER,
Linux 5.8), so that a table with 100,000 entries is not copied to find ten.
"""

import socket
import struct
from collections.abc import Callable, Iterable

from egressguard.core.connections import Connection
from egressguard.kernel.netlink import Netlink, NoSuchEntry, attributes

GET, DELETE = 1, 2
TUPLE, STATUS, ZONE, FILTER = 1, 3, 18, 25
SEEN_REPLY = 1 << 1  # linux/netfilter/nf_conntrack_common.h
TUPLE_IP, TUPLE_PROTO, TUPLE_ZONE = 1, 2, 3
PROTO_NUMBER, PROTO_TO_PORT = 1, 3
FILTER_TUPLE = 1
BY_PROTOCOL_AND_PORT = struct.pack("=I", 1 << 3 | 1 << 5)  # CTA_FILTER_F_CTA_PROTO_{NUM,DST_PORT}
ADDRESSES = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
NESTED = 0x8000


class Conntrack(Netlink):
    """Connections of one network namespace; methods raise KernelError."""

    subsystem, missing = 1, "conntrack netlink interface (CONFIG_NF_CT_NETLINK)"

    def end(self, ports: Iterable[int], chosen: Callable[[Connection], bool]) -> list[Connection]:
        """Ends the connections to `ports` that are `chosen`; which of them had an answer.

        The reset of a refused SYN leaves an entry too: it says nothing of what has passed.
        """
        ended = []
        for port in ports:
            for family in ADDRESSES:
                for answer in self.dump(GET, family, _filter(port), "reading the tracked connections"):
                    found = dict(attributes(answer))
                    connection = _connection(family, found)
                    if connection.port == port and chosen(connection) and self._ended(family, found) \
                            and _answered(found):
                        ended.append(connection)
        return ended

    def _ended(self, family: int, found: dict[int, memoryview]) -> bool:
        payload = _attribute(TUPLE | NESTED, bytes(found[TUPLE]))
        if ZONE in found:
            payload += _attribute(ZONE, bytes(found[ZONE]))
        try:
            self.tell(DELETE, family, payload, "ending a tracked connection")
        except NoSuchEntry:
            return False  # it ended by itself meanwhile
        return True


def _answered(found: dict[int, memoryview]) -> bool:
    return bool(int.from_bytes(found[STATUS], "big") & SEEN_REPLY)


def _filter(port: int) -> bytes:
    proto = _attribute(PROTO_NUMBER, bytes([socket.IPPROTO_TCP])) + _attribute(
        PROTO_TO_PORT, struct.pack(">H", port))
    return (_attribute(TUPLE | NESTED, _attribute(TUPLE_PROTO | NESTED, proto))
            + _attribute(FILTER | NESTED, _attribute(FILTER_TUPLE, BY_PROTOCOL_AND_PORT)))


def _connection(family: int, found: dict[int, memoryview]) -> Connection:
    parts = dict(attributes(found[TUPLE]))
    addresses, proto = dict(attributes(parts[TUPLE_IP])), dict(attributes(parts[TUPLE_PROTO]))
    source, destination = (socket.inet_ntop(family, addresses[kind]) for kind in ADDRESSES[
        socket.AddressFamily(family)])
    tcp = proto[PROTO_NUMBER][0] == socket.IPPROTO_TCP
    return Connection(source, destination, int.from_bytes(proto[PROTO_TO_PORT], "big") if tcp else 0)


def _attribute(kind: int, payload: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(payload), kind) + payload
    return data + bytes(-len(data) % 4)
