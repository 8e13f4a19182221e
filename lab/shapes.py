"""The shapes in which a packet to an SMTP port may come: what a firewall must judge alike.

Each builder turns a flow into the packets to send, in order. Names are sentences' subjects, and stay.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from lab.headers import (
    AUTHENTICATION,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    NO_NEXT,
    ROUTING,
    Flow,
    chain,
    ip,
    ip4,
    ip6,
    options6,
    piece,
    pieces,
    routing,
    tcp,
    to_port,
)
from lab.packets import ACK, FIN, IPV4, IPV6, RST, SYN, TCP

PSH, URG, ECE, CWR = 0x08, 0x20, 0x40, 0x80
DATA = b"EHLO bot.example\r\n\0\0\0\0\0\0"  # with the header 44 octets: enough for several cuts
Builder = Callable[[Flow], list[bytes]]


@dataclass(frozen=True)
class Shape:
    """A named way of writing a packet, in the families that know it, behind an Ethernet type."""

    name: str
    build: Builder
    families: tuple[int, ...] = (4, 6)
    ether_type: int | None = None  # in place of the family's own


def _flags(value: int, data: bytes = b"") -> Builder:
    return lambda flow: [ip(flow, tcp(flow, value, data=data))]


FLAGS: dict[str, Builder] = {
    "SYN": _flags(SYN),
    "SYN ECE CWR": _flags(SYN | ECE | CWR),
    "SYN PSH": _flags(SYN | PSH),
    "SYN URG": _flags(SYN | URG),
    "SYN with data": _flags(SYN, DATA),
    "SYN ACK": _flags(SYN | ACK),
    "ACK": _flags(ACK),
    "ACK PSH with data": _flags(ACK | PSH, DATA),
    "FIN": _flags(FIN),
    "FIN ACK": _flags(FIN | ACK),
    "RST": _flags(RST),
    "RST ACK": _flags(RST | ACK),
    "no flags": _flags(0),
    "FIN PSH URG (xmas)": _flags(FIN | PSH | URG),
    "SYN FIN": _flags(SYN | FIN),
    "SYN RST": _flags(SYN | RST),
    "all flags": _flags(0xFF),
    "SYN with reserved bits": lambda f: [ip(f, tcp(f, reserved=0x0F))],
}

HEADER: dict[str, Builder] = {
    "data offset 0": lambda f: [ip(f, tcp(f, words=0))],
    "data offset 4": lambda f: [ip(f, tcp(f, words=4))],
    "data offset beyond the end": lambda f: [ip(f, tcp(f, words=15))],
    "options": lambda f: [ip(f, tcp(f, options=b"\x02\x04\x05\xb4\x01\x03\x03\x07"))],
    "option of length 0": lambda f: [ip(f, tcp(f, options=b"\x02\0\0\0"))],
    "TFO cookie request": lambda f: [ip(f, tcp(f, options=b"\x22\x02\x01\x01"))],
    "TFO cookie and data": lambda f: [ip(f, tcp(f, options=b"\x22\x0a12345678\x01\x01", data=DATA))],
    "TCP-MD5 option": lambda f: [ip(f, tcp(f, options=b"\x13\x12" + b"5" * 16 + b"\x01\x01"))],
    "wrong TCP checksum": lambda f: [ip(f, tcp(f, total=0xBAD))],
    "no TCP checksum": lambda f: [ip(f, tcp(f, total=0))],
    "urgent data": lambda f: [ip(f, tcp(f, ACK | URG, data=DATA, urgent=4))],
    "source port 0": lambda f: [ip(Flow(f.source, f.destination, 0), tcp(Flow(f.source, f.destination, 0)))],
    "source port 25": lambda f: [ip(f, tcp(Flow(f.source, f.destination, 25)))],
    "octets behind the end": lambda f: [ip(f, tcp(f)) + b"\0" * 18],
}

SIZES = (0, 2, 3, 4, 8, 13, 14, 19)
TRUNCATED: dict[str, Builder] = {
    f"cut after {size} octets of TCP": lambda f, size=size: [ip(f, tcp(f)[:size])]  # type: ignore[misc]
    for size in SIZES
}


def _tiny(flow: Flow) -> list[bytes]:
    """RFC 1858: the flags in the second fragment."""
    return pieces(flow, tcp(flow, data=DATA), 8)


def _overlapping(flow: Flow) -> list[bytes]:
    """RFC 1858: the second fragment writes the port 25 over an innocent one."""
    innocent, real = tcp(to_port(flow, 80), data=DATA), tcp(flow, data=DATA)
    return [piece(flow, innocent, 0, 24, more=True), piece(flow, real, 0, len(real), more=False)]


def _first_twice(flow: Flow) -> list[bytes]:
    first, second = pieces(flow, tcp(flow, data=DATA), 16)
    return [first, first, second]


def _overlapping_tail(flow: Flow) -> list[bytes]:
    whole = tcp(flow, data=DATA)
    return [piece(flow, whole, 0, 24, more=True), piece(flow, whole, 16, len(whole), more=False)]


FRAGMENTS: dict[str, Builder] = {
    "two fragments, flags in the second": _tiny,
    "two fragments, header whole": lambda f: pieces(f, tcp(f, data=DATA), 24),
    "three fragments": lambda f: pieces(f, tcp(f, data=DATA), 16, 32),
    "fragments in reverse": lambda f: pieces(f, tcp(f, data=DATA), 16, 32)[::-1],
    "fragments, one twice": _first_twice,
    "fragments with another SYN inside": lambda f: pieces(f, tcp(f, data=DATA + tcp(f)), 24),
    "overlapping fragments that rewrite the port": _overlapping,
    "overlapping fragments in the data": _overlapping_tail,
    "a first fragment alone": lambda f: [piece(f, tcp(f, data=DATA), 0, 24, more=True)],
    "a tiny first fragment alone": lambda f: [piece(f, tcp(f), 0, 8, more=True)],
    "a first fragment of 13 octets": lambda f: [piece(f, tcp(f), 0, 13, more=True)],
    "a first fragment of 2 octets": lambda f: [piece(f, tcp(f), 0, 2, more=True)],
    "a tail alone": lambda f: [piece(f, tcp(f, data=DATA), 24, 44, more=False)],
    "a tail at octet 8 alone": lambda f: [piece(f, tcp(f, data=DATA), 8, 44, more=False)],
    "a tail that looks like a SYN": lambda f: [piece(f, bytes(8) + tcp(f), 8, 28, more=False)],
    "a middle alone": lambda f: [piece(f, tcp(f, data=DATA), 8, 24, more=True)],
    "a tail beyond 65,535 octets": lambda f: [piece(f, bytes(65_528) + tcp(f), 65_528, 65_548, more=False)],
}

ELSEWHERE4 = bytes((192, 0, 2, 20))


def _options4(options: bytes) -> Builder:
    return lambda flow: [ip4(flow, tcp(flow), options=options)]


ONLY4: dict[str, Builder] = {
    "loose source route, used up": _options4(b"\x83\x07\x08" + ELSEWHERE4 + b"\0"),
    "strict source route, used up": _options4(b"\x89\x07\x08" + ELSEWHERE4 + b"\0"),
    "loose source route, open": _options4(b"\x83\x07\x04" + ELSEWHERE4 + b"\0"),
    "strict source route, open": _options4(b"\x89\x07\x04" + ELSEWHERE4 + b"\0"),
    "record route": _options4(b"\x07\x0b\x04" + bytes(8) + b"\0"),
    "router alert": _options4(b"\x94\x04\0\0"),
    "time stamps": _options4(b"\x44\x0c\x05\0" + bytes(8)),
    "forty octets of options": _options4(b"\x01" * 39 + b"\0"),
    "unknown option": _options4(b"\x9e\x04\0\0"),
    "option longer than the header": _options4(b"\x83\xff\x04\0"),
    "fragment bit and flag DF": lambda f: [ip4(f, tcp(f), fragment=0x6000)],
    "reserved bit": lambda f: [ip4(f, tcp(f), fragment=0x8000)],
    "every bit of the service octet": lambda f: [ip4(f, tcp(f), service=0xFF)],
    "wrong IP checksum": lambda f: [ip4(f, tcp(f), total=0xBAD)],
    "header length 4": lambda f: [ip4(f, tcp(f), words=4)],
    "header length 15 that swallows the ports": lambda f: [ip4(f, tcp(f) + bytes(20), words=15)],
    "total length beyond the end": lambda f: [ip4(f, tcp(f), length=400)],
    "total length without the TCP header": lambda f: [ip4(f, tcp(f), length=20)],
    "TTL 1": lambda f: [ip4(f, tcp(f), ttl=1)],
    "AH": lambda f: [ip4(f, _authentication(TCP) + tcp(f), AUTHENTICATION)],
}


def _authentication(following: int) -> bytes:
    return bytes([following]) + AUTHENTICATION_BODY


AUTHENTICATION_BODY = struct.pack("!BHII", 4, 0, 1, 1) + bytes(12)


def _extended(*headers: tuple[int, bytes]) -> Builder:
    def build(flow: Flow) -> list[bytes]:
        following, payload = chain(headers, tcp(flow))
        return [ip6(flow, payload, following)]
    return build


def _cut(at: int, *headers: tuple[int, bytes]) -> Builder:
    """The chain of headers cut by a fragment header in front of it (RFC 7112)."""
    def build(flow: Flow) -> list[bytes]:
        following, payload = chain(headers, tcp(flow, data=DATA))
        return pieces(flow, payload, at, protocol=following)
    return build


def _nested(offset: int) -> Builder:
    """A fragment within a whole fragmented packet: what reassembly leaves is a fragment again."""
    def build(flow: Flow) -> list[bytes]:
        inner = struct.pack("!BBHI", TCP, 0, offset, flow.source_port) + tcp(flow, data=DATA)
        return pieces(flow, inner, 24, protocol=FRAGMENT)
    return build


ATOMIC = struct.pack("!BHI", 0, 0, 7)
SOMEWHERE6 = "2001:db8:ffff::77"
PAD = options6()
LONG_PAD = options6(b"\x01\xfa" + bytes(250) + bytes(770))
HOPS, TARGET = (HOP_BY_HOP, PAD), (DESTINATION, PAD)

ONLY6: dict[str, Builder] = {
    "hop-by-hop options": _extended(HOPS),
    "router alert, hop by hop": _extended((HOP_BY_HOP, options6(b"\x05\x02\0\0\x01\0"))),
    "unknown hop-by-hop option to be discarded": _extended((HOP_BY_HOP, options6(b"\x7e\x04\0\0\0\0"))),
    "hop-by-hop options in second place": _extended(TARGET, HOPS),
    "destination options": _extended(TARGET),
    "destination options twice": _extended(TARGET, TARGET),
    "twelve destination options": _extended(*[TARGET] * 12),
    "destination options of 1,024 octets": _extended((DESTINATION, LONG_PAD)),
    "routing type 0, used up": _extended((ROUTING, routing(0, 0, SOMEWHERE6))),
    "routing type 0, open": _extended((ROUTING, routing(0, 1, SOMEWHERE6))),
    "routing type 2": _extended((ROUTING, routing(2, 0, SOMEWHERE6))),
    "routing type 4 (segment routing)": _extended((ROUTING, routing(4, 0, SOMEWHERE6))),
    "routing of an unknown type": _extended((ROUTING, routing(254, 0))),
    "atomic fragment": _extended((FRAGMENT, ATOMIC)),
    "atomic fragment twice": _extended((FRAGMENT, ATOMIC), (FRAGMENT, ATOMIC)),
    "atomic fragment behind destination options": _extended(TARGET, (FRAGMENT, ATOMIC)),
    "destination options behind an atomic fragment": _extended((FRAGMENT, ATOMIC), TARGET),
    "several headers": _extended(
        HOPS, TARGET, (ROUTING, routing(2, 0, SOMEWHERE6)), (FRAGMENT, ATOMIC), TARGET),
    "AH": _extended((AUTHENTICATION, AUTHENTICATION_BODY)),
    "AH behind destination options": _extended(TARGET, (AUTHENTICATION, AUTHENTICATION_BODY)),
    "fragments with the ports in the second": _cut(16, TARGET, TARGET),
    "fragments cut within an option": _cut(8, (DESTINATION, options6(b"\x01\x0c" + bytes(12)))),
    "a first fragment within a whole packet": _nested(1),
    "a tail within a whole packet": _nested(16),
    "TCP behind no next header": _extended((NO_NEXT, PAD)),
    "extension header beyond the end": _extended((DESTINATION, b"\x7f\x01\x04\0\0\0\0")),
    "payload length beyond the end": lambda f: [ip6(f, tcp(f), length=400)],
    "payload length without the TCP header": lambda f: [ip6(f, tcp(f), length=0)],
    "flow label and class": lambda f: [ip6(f, tcp(f), label=0xFFFFFFF)],
    "hop limit 1": lambda f: [ip6(f, tcp(f), hops=1)],
}


def _carried(protocol: int, head: bytes = b"") -> Builder:
    """A SYN inside another protocol."""
    return lambda flow: [ip(flow, head + tcp(flow), protocol)]


ETHER_TYPE = {4: IPV4, 6: IPV6}
TUNNELS: dict[str, Builder] = {
    "IP in IP (4)": lambda f: [ip(f, ip(f, tcp(f)), 4)],
    "IPv6 in IP (41)": lambda f: [ip(f, ip(f, tcp(f)), 41)],
    "GRE (47)": lambda f: [ip(f, struct.pack("!HH", 0, ETHER_TYPE[f.version]) + ip(f, tcp(f)), 47)],
    "SCTP to port 25 (132)": lambda f: [
        ip(f, struct.pack("!HHII", f.source_port, 25, 0, 0) + bytes(20), 132)],
    "UDP to port 25 (17)": lambda f: [ip(f, struct.pack("!HHHH", f.source_port, 25, 12, 0) + DATA[:4], 17)],
    "EtherIP (97)": _carried(97, b"\x30\0"),
    "IPComp (108)": _carried(108, b"\x06\0\0\x02"),
    "L2TP (115)": _carried(115, bytes(4)),
    "MPLS in IP (137)": _carried(137, bytes(4)),
    "ESP (50)": _carried(50, struct.pack("!II", 1, 1)),
    "DCCP to port 25 (33)": _carried(33),
}

def _last(number: int) -> Builder:
    """A SYN behind a header that IPv6 knows but a router's rules do not walk through."""
    return _extended((number, PAD))


TUNNELS6: dict[str, Builder] = {
    "mobility header (135)": _last(135),
    "HIP (139)": _last(139),
    "shim6 (140)": _last(140),
}

SHAPES = (
    *(Shape(name, build) for name, build in (FLAGS | HEADER | TRUNCATED | FRAGMENTS | TUNNELS).items()),
    *(Shape(name, build, (4,)) for name, build in ONLY4.items()),
    *(Shape(name, build, (6,)) for name, build in (ONLY6 | TUNNELS6).items()),
)
