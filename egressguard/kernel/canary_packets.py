"""The canary's SYN as bytes, the filter that recognises it anywhere on this machine, and its answers.

It is recognised by its random sequence number, which address translation leaves alone (RFC 3022 changes
addresses, ports and checksums). Layouts: RFC 791, 8200, 9293; filters: linux/filter.h.
"""

import ctypes
import socket
import struct
from ipaddress import IPv4Address

from egressguard.core.hosts import Address

ETHERTYPE = {4: 0x0800, 6: 0x86DD}
SOURCE_PORT, SMTP_PORT = 2525, 25
TCP, ICMP, ICMPV6 = 6, 1, 58
SYN, RST, ACK = 0x02, 0x04, 0x10
TTL = 64

SO_ATTACH_FILTER = 26
PACKET_OUTGOING = 4
_PACKET_TYPE = -0x1000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_LOAD_WORD, _LOAD_BYTE, _LOAD_WORD_X, _HEADER_LENGTH_X = 0x20, 0x30, 0x40, 0xB1
_SHIFT_RIGHT, _JUMP_EQUAL, _RETURN = 0x74, 0x15, 0x06


def syn(source: Address, destination: Address, sequence: int, macs: tuple[bytes, bytes]) -> bytes:
    """The Ethernet frame; `macs` are the receiver's and the sender's."""
    addresses = source.packed + destination.packed
    header = struct.pack("!HHIIBBHHH", SOURCE_PORT, SMTP_PORT, sequence, 0, 5 << 4, SYN, 64240, 0, 0)
    pseudo = addresses + struct.pack("!II", len(header), TCP)  # RFC 8200, 8.1; in IPv4 it sums up the same
    tcp = header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]
    if isinstance(source, IPv4Address):
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, TTL, TCP, 0) + addresses
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    else:
        ip = struct.pack("!IHBB", 6 << 28, len(tcp), TCP, TTL) + addresses
    return b"".join(macs) + struct.pack("!H", ETHERTYPE[source.version]) + ip + tcp


def checksum(data: bytes) -> int:
    """RFC 1071, for an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def watch_outgoing(raw: socket.socket, sequence: int) -> None:
    """Lets only outgoing TCP with this sequence number through to `raw` (AF_PACKET, SOCK_DGRAM)."""
    accept, refuse = 15, 16
    program = [
        (_LOAD_WORD, 0, 0, _PACKET_TYPE), _equal(1, PACKET_OUTGOING, 2, refuse),
        (_LOAD_BYTE, 0, 0, 0), (_SHIFT_RIGHT, 0, 0, 4), _equal(4, 4, 5, 10),
        (_LOAD_BYTE, 0, 0, 9), _equal(6, TCP, 7, refuse),
        (_HEADER_LENGTH_X, 0, 0, 0), (_LOAD_WORD_X, 0, 0, 4), _equal(9, sequence, accept, refuse),
        _equal(10, 6, 11, refuse), (_LOAD_BYTE, 0, 0, 6), _equal(12, TCP, 13, refuse),
        (_LOAD_WORD, 0, 0, 44), _equal(14, sequence, accept, refuse),
        (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0),
    ]
    code = b"".join(struct.pack("HBBI", op, yes, no, value & 0xFFFFFFFF) for op, yes, no, value in program)
    place = ctypes.create_string_buffer(code, len(code))
    raw.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                   struct.pack("HL", len(program), ctypes.addressof(place)))


def _equal(here: int, value: int, then: int, otherwise: int) -> tuple[int, int, int, int]:
    """Jumps are relative to the next instruction."""
    return _JUMP_EQUAL, then - here - 1, otherwise - here - 1, value


def answer(packet: bytes, sequence: int) -> str:
    """What an IP packet says about the SYN with this number: see core/canary.py, Trace; empty if nothing."""
    try:
        if packet[0] >> 4 == 4:
            return _answer(packet[9], packet[4 * (packet[0] & 0x0F):], sequence)
        return _answer(packet[6], packet[40:], sequence)
    except (IndexError, struct.error):
        return ""


def _answer(protocol: int, payload: bytes, sequence: int) -> str:
    if protocol == TCP:
        acknowledged, flags = struct.unpack_from("!8xIxB", payload)
        if acknowledged != (sequence + 1) & 0xFFFFFFFF:
            return ""
        return "reset" if flags & RST else "accepted" if flags & SYN else ""
    # Destination unreachable is type 3 in ICMP and type 1 in ICMPv6; it quotes the packet.
    if (protocol, payload[0]) in ((ICMP, 3), (ICMPV6, 1)) and struct.pack("!I", sequence) in payload[8:]:
        return "unreachable"
    return ""
