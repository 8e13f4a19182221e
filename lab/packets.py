"""What a frame says: the TCP of an Ethernet frame, also behind IPv6 extension headers, or nothing."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETHERNET_HEADER = 14
IPV4, IPV6 = 0x0800, 0x86DD
TCP = 6
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

# RFC 8200 section 4: hop-by-hop, routing, destination options, mobility, HIP, shim6. All give
# their length in units of 8 octets after the first 8; fragment (44) and AH (51) differ.
OPTION_HEADERS = frozenset({0, 43, 60, 135, 139, 140})
FRAGMENT_HEADER = 44
AUTHENTICATION_HEADER = 51


@dataclass(frozen=True, slots=True)
class Packet:
    """One TCP packet, or a fragment: then, unless it is the first, ports and flags are 0."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    flags: int
    fragment: bool
    source_mac: str

    @property
    def pure_syn(self) -> bool:
        """SYN without FIN, RST or ACK: what a connection begins with."""
        return self.flags & (FIN | SYN | RST | ACK) == SYN


def parse(frame: bytes) -> Packet | None:
    """The packet in `frame`; None if it is not TCP or too short to tell."""
    try:
        (ether_type,) = struct.unpack_from("!H", frame, 12)
        if ether_type == IPV4:
            return _ipv4(frame)
        return _ipv6(frame) if ether_type == IPV6 else None
    except struct.error:
        return None


def _ipv4(frame: bytes) -> Packet | None:
    version_length, _, _, _, fragment, _, protocol = struct.unpack_from("!BBHHHBB", frame, ETHERNET_HEADER)
    if protocol != TCP:
        return None
    source, destination = struct.unpack_from("!4s4s", frame, ETHERNET_HEADER + 12)
    names = str(IPv4Address(source)), str(IPv4Address(destination))
    payload = ETHERNET_HEADER + 4 * (version_length & 0x0F)
    return _tcp(frame, names, payload, fragment & 0x1FFF, fragment & 0x3FFF != 0)


def _ipv6(frame: bytes) -> Packet | None:
    header = frame[ETHERNET_HEADER + 6]
    at = ETHERNET_HEADER + 40
    offset, fragment = 0, False
    while header != TCP:
        following, length, field = struct.unpack_from("!BBH", frame, at)
        if header in OPTION_HEADERS:
            at += 8 + 8 * length
        elif header == AUTHENTICATION_HEADER:
            at += 8 + 4 * length
        elif header == FRAGMENT_HEADER:
            at += 8
            offset, fragment = field >> 3, True
        else:
            return None
        header = following
        if offset:
            break  # The rest of this packet is data, whatever `header` claims.
    source, destination = struct.unpack_from("!16s16s", frame, ETHERNET_HEADER + 8)
    names = str(IPv6Address(source)), str(IPv6Address(destination))
    return _tcp(frame, names, at, offset, fragment)


def _tcp(frame: bytes, names: tuple[str, str], at: int, offset: int, fragment: bool) -> Packet | None:
    source_port = destination_port = flags = 0
    if offset == 0:
        try:
            source_port, destination_port, flags = struct.unpack_from("!HH9xB", frame, at)
        except struct.error:
            # A first fragment too small for the ports and flags hides them on purpose.
            if not fragment:
                raise
    mac = frame[6:12].hex(":")
    return Packet(*names, source_port, destination_port, flags, fragment, mac)
