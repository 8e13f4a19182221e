"""IP and TCP headers as bytes, right by default and wrong in any one field on purpose.

RFC 9293 (TCP), 791 (IPv4), 8200 (IPv6). A packet here is what follows the Ethernet header.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from lab.packets import SYN, TCP
from lab.syns import Address, checksum

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT, DESTINATION = 0, 43, 44, 51, 59, 60
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000


@dataclass(frozen=True)
class Flow:
    """Who sends what to whom; the source port also serves as identification of fragments."""

    source: Address
    destination: Address
    source_port: int
    port: int = 25

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version


def tcp(flow: Flow, flags: int = SYN, *, options: bytes = b"", data: bytes = b"", words: int | None = None,
        reserved: int = 0, total: int | None = None, urgent: int = 0) -> bytes:
    """A TCP segment; `words` and `total` replace the data offset and the checksum."""
    offset = 5 + len(options) // 4 if words is None else words
    head = struct.pack("!HHIIBBHHH", flow.source_port, flow.port, 1, 1 if flags & 16 else 0,
                       offset << 4 | reserved, flags, 65_535, 0, urgent)
    segment = head + options + data
    right = _segment_checksum(flow, segment) if total is None else total
    return segment[:16] + struct.pack("!H", right) + segment[18:]


def _segment_checksum(flow: Flow, segment: bytes) -> int:
    even = segment + b"\0" * (len(segment) % 2)
    ends = flow.source.packed + flow.destination.packed
    return checksum(ends + struct.pack("!II", len(segment), TCP) + even)


def ip(flow: Flow, payload: bytes, protocol: int = TCP) -> bytes:
    """A packet of the flow's family without options."""
    return ip4(flow, payload, protocol) if flow.version == 4 else ip6(flow, payload, protocol)


def ip4(flow: Flow, payload: bytes, protocol: int = TCP, *, options: bytes = b"",
        fragment: int = DONT_FRAGMENT, ttl: int = 64, words: int | None = None,
        length: int | None = None, total: int | None = None, service: int = 0) -> bytes:
    """An IPv4 packet; `words`, `length` and `total` replace header length, total length and checksum."""
    header_words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | (header_words if words is None else words), service,
                       4 * header_words + len(payload) if length is None else length,
                       flow.source_port, fragment, ttl, protocol, 0)
    head += flow.source.packed + flow.destination.packed + options
    right = checksum(head) if total is None else total
    return head[:10] + struct.pack("!H", right) + head[12:] + payload


def ip6(flow: Flow, payload: bytes, following: int = TCP, *, hops: int = 64, length: int | None = None,
        label: int = 0) -> bytes:
    """An IPv6 packet; `length` replaces the payload length."""
    head = struct.pack("!IHBB", 6 << 28 | label, len(payload) if length is None else length, following, hops)
    return head + flow.source.packed + flow.destination.packed + payload


def chain(headers: Iterable[tuple[int, bytes]], payload: bytes, last: int = TCP) -> tuple[int, bytes]:
    """Extension headers, each (number, bytes after its next-header field), linked to `payload`."""
    following = last
    for number, body in reversed(list(headers)):
        payload, following = bytes([following]) + body + payload, number
    return following, payload


def options6(data: bytes = b"\x01\x04\0\0\0\0") -> bytes:
    """The body of a hop-by-hop or destination options header; by default one PadN."""
    return bytes([(len(data) + 2) // 8 - 1]) + data


def routing(kind: int, left: int, address: str = "") -> bytes:
    """The body of a routing header, with one address or none (RFC 8200 section 4.4)."""
    listed = ip_address(address).packed if address else b""
    # Type 4 (RFC 8754) gives the last entry here; the others have it reserved.
    return struct.pack("!BBBI", len(listed) // 8, kind, left, 0) + listed


def piece(flow: Flow, payload: bytes, begin: int, end: int, *, more: bool, protocol: int = TCP) -> bytes:
    """Octets `begin` to `end` of `payload` as one fragment; `begin` is a multiple of 8."""
    data = payload[begin:end]
    if flow.version == 4:
        return ip4(flow, data, protocol, fragment=begin // 8 | (MORE_FRAGMENTS if more else 0))
    head = struct.pack("!BBHI", protocol, 0, begin | more, flow.source_port)
    return ip6(flow, head + data, FRAGMENT)


def pieces(flow: Flow, payload: bytes, *cuts: int, protocol: int = TCP) -> list[bytes]:
    """`payload` cut at the given octets, in order."""
    ends = [*cuts, len(payload)]
    return [piece(flow, payload, begin, end, more=end < len(payload), protocol=protocol)
            for begin, end in zip([0, *cuts], ends, strict=True)]


def to_port(flow: Flow, port: int) -> Flow:
    """The same flow towards another port."""
    return replace(flow, port=port)
