"""Classic BPF programs for packet sockets: the kernel picks the frames, so that none is copied in vain.

Instructions are (code, jump if true, jump if false, constant), <linux/filter.h>.
"""

import struct
from collections.abc import Sequence
from typing import Literal

from lab.packets import ACK, ETHERNET_HEADER, FIN, IPV4, IPV6, RST, SYN, TCP

Direction = Literal["in", "out", "both"]

LOAD_HALF, LOAD_BYTE = 0x28, 0x30
LOAD_HALF_X, LOAD_BYTE_X = 0x48, 0x50
LOAD_IPV4_LENGTH = 0xB1  # X = 4 * (byte & 0x0f)
AND = 0x54
IF_EQUAL, IF_SET = 0x15, 0x45
RETURN = 0x06

PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
PACKET_OUTGOING = 4
EVERYTHING = 0x40000

ETHER_TYPE = 12
IPV4_FRAGMENT, IPV4_PROTOCOL = ETHERNET_HEADER + 6, ETHERNET_HEADER + 9
IPV6_NEXT, IPV6_PAYLOAD = ETHERNET_HEADER + 6, ETHERNET_HEADER + 40
PORT, FLAGS = 2, 13
UDP, ICMPV6 = 17, 58

Instruction = tuple[int, str | int, str | int, int]


def syn_filter(port: int, direction: Direction) -> bytes:
    """Passes pure SYNs to `port` whose TCP header follows the IP header directly."""
    return _assemble([
        *_direction(direction),
        (LOAD_HALF, 0, 0, ETHER_TYPE),
        (IF_EQUAL, 0, "six", IPV4),
        (LOAD_BYTE, 0, 0, IPV4_PROTOCOL),
        (IF_EQUAL, 0, "no", TCP),
        (LOAD_HALF, 0, 0, IPV4_FRAGMENT),
        (IF_SET, "no", 0, 0x1FFF),
        (LOAD_IPV4_LENGTH, 0, 0, ETHERNET_HEADER),
        (LOAD_HALF_X, 0, 0, ETHERNET_HEADER + PORT),
        (IF_EQUAL, 0, "no", port),
        (LOAD_BYTE_X, 0, 0, ETHERNET_HEADER + FLAGS),
        (AND, 0, 0, FIN | SYN | RST | ACK),
        (IF_EQUAL, "yes", "no", SYN),
        "six",
        (IF_EQUAL, 0, "no", IPV6),
        (LOAD_BYTE, 0, 0, IPV6_NEXT),
        (IF_EQUAL, 0, "no", TCP),
        (LOAD_HALF, 0, 0, IPV6_PAYLOAD + PORT),
        (IF_EQUAL, 0, "no", port),
        (LOAD_BYTE, 0, 0, IPV6_PAYLOAD + FLAGS),
        (AND, 0, 0, FIN | SYN | RST | ACK),
        (IF_EQUAL, "yes", "no", SYN),
    ])  # fmt: skip


def tcp_filter(direction: Direction) -> bytes:
    """Passes IPv4 with TCP, and IPv6 with TCP or with any extension header that could precede it."""
    return _assemble([
        *_direction(direction),
        (LOAD_HALF, 0, 0, ETHER_TYPE),
        (IF_EQUAL, 0, "six", IPV4),
        (LOAD_BYTE, 0, 0, IPV4_PROTOCOL),
        (IF_EQUAL, "yes", "no", TCP),
        "six",
        (IF_EQUAL, 0, "no", IPV6),
        (LOAD_BYTE, 0, 0, IPV6_NEXT),
        (IF_EQUAL, "no", 0, UDP),
        (IF_EQUAL, "no", "yes", ICMPV6),
    ])  # fmt: skip


def tag_filter() -> bytes:
    """Passes frames that come with a VLAN tag behind the one that the kernel has taken off."""
    return _assemble([
        *_direction("in"),
        (LOAD_HALF, 0, 0, ETHER_TYPE),
        (IF_EQUAL, "yes", 0, 0x8100),
        (IF_EQUAL, "yes", "no", 0x88A8),
    ])  # fmt: skip


def ip_filter(direction: Direction) -> bytes:
    """Passes every IPv4 and IPv6 packet, except neighbour discovery and other ICMPv6."""
    return _assemble([
        *_direction(direction),
        (LOAD_HALF, 0, 0, ETHER_TYPE),
        (IF_EQUAL, "yes", 0, IPV4),
        (IF_EQUAL, 0, "no", IPV6),
        (LOAD_BYTE, 0, 0, IPV6_NEXT),
        (IF_EQUAL, "no", "yes", ICMPV6),
    ])  # fmt: skip


def _direction(direction: Direction) -> list[Instruction | str]:
    if direction == "both":
        return []
    match = ("no", 0) if direction == "in" else (0, "no")
    return [(LOAD_BYTE, 0, 0, PACKET_TYPE), (IF_EQUAL, *match, PACKET_OUTGOING)]


def _assemble(lines: Sequence[Instruction | str]) -> bytes:
    """Instructions with their labels resolved; ends with `yes` (pass) and `no` (leave)."""
    code: list[Instruction] = []
    labels: dict[str | int, int] = {}
    ends: list[Instruction | str] = ["yes", (RETURN, 0, 0, EVERYTHING), "no", (RETURN, 0, 0, 0)]
    for line in [*lines, *ends]:
        if isinstance(line, str):
            labels[line] = len(code)
        else:
            code.append(line)

    def distance(at: int, target: str | int) -> int:
        return target if isinstance(target, int) else labels[target] - at - 1

    return b"".join(
        struct.pack("HBBI", op, distance(at, yes), distance(at, no), constant)
        for at, (op, yes, no, constant) in enumerate(code)
    )
