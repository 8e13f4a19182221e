"""The fields of a set's key, from the kernel's bytes to the text that the rest of the house knows."""

import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address, summarize_address_range

from egressguard.core.errors import KernelError
from egressguard.core.ruleset import Element, Fields, FieldType
from egressguard.kernel import cgroups

PADDED = 4  # every field of a concatenated key fills whole 32-bit registers
NFPROTO_NAMES = {2: "ipv4", 10: "ipv6"}
ETHER_TYPE_NAMES = {"0800": "ip", "86dd": "ip6"}


def _ifname(raw: bytes, _: bytes) -> str:
    return raw.rstrip(b"\0").decode()


def _ipv4(raw: bytes, _: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, raw)


def _ipv6(raw: bytes, _: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, raw)


def _net(raw: bytes, end: bytes) -> str:
    """A range as the network that it is, or as `first-last` when it is none (somebody else's element)."""
    networks = list(summarize_address_range(ip_address(raw), ip_address(end)))
    return str(networks[0]) if len(networks) == 1 else f"{ip_address(raw)}-{ip_address(end)}"


def _ether(raw: bytes, _: bytes) -> str:
    return raw.hex(":")


def _nf_proto(raw: bytes, _: bytes) -> str:
    return NFPROTO_NAMES.get(raw[0], str(raw[0]))


def _ether_type(raw: bytes, _: bytes) -> str:
    return ETHER_TYPE_NAMES.get(raw.hex(), f"0x{raw.hex()}")


def _service(raw: bytes, _: bytes) -> str:
    return str(int.from_bytes(raw, "big"))


def _uid(raw: bytes, _: bytes) -> str:
    return str(int.from_bytes(raw, sys.byteorder))


def _cgroup(raw: bytes, _: bytes) -> str:
    return cgroups.name_of(int.from_bytes(raw, sys.byteorder))


Convert = Callable[[bytes, bytes], str]
FIELDS: dict[FieldType, tuple[int, Convert]] = {
    "ifname": (16, _ifname),
    "ipv4_addr": (4, _ipv4),
    "ipv6_addr": (16, _ipv6),
    "ipv4_net": (4, _net),
    "ipv6_net": (16, _net),
    "ether_addr": (6, _ether),
    "nf_proto": (1, _nf_proto),
    "ether_type": (2, _ether_type),
    "inet_service": (2, _service),
    "inet_proto": (1, _service),
    "uid": (4, _uid),
    "iface_index": (4, _uid),
    "cgroup": (8, _cgroup),
}


def decoder(name: str, fields: Fields) -> Callable[[bytes, bytes], Element]:
    """Turns a key into an element. Somebody may have made the set anew with other fields: say so."""
    slots, position = [], 0
    for kind in fields:
        size, convert = FIELDS[kind]
        slots.append((position, position + size, convert))
        position += -(-size // PADDED) * PADDED
    length = position if len(fields) > 1 else slots[0][1]

    def decode(key: bytes, end: bytes) -> Element:
        if len(key) != length:
            raise KernelError(f"set {name}: its elements have {len(key)} bytes, not {length}: somebody has "
                              "made it anew with another type")
        try:
            return tuple(convert(key[first:last], end[first:last]) for first, last, convert in slots)
        except ValueError as error:
            raise KernelError(f"set {name}: an element is not what it should be: {error}") from error

    return decode
