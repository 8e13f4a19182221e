"""The elements and counters of a set, read in one dump.

A dump of a set that grows meanwhile can repeat elements and miss others, without saying so: the result
is a mapping, so repetitions fall together, and nobody may read "absent" as "gone" (core/attempts.py).
"""

import socket
import struct
from collections.abc import Callable, Iterator

from egressguard.core.hosts import IPV6_PREFIX_LENGTH
from egressguard.core.ruleset import TABLE, Element, FieldType
from egressguard.kernel.netlink import (
    GETOBJ,
    GETSETELEM,
    NFPROTO_INET,
    Netlink,
    attribute,
    attributes,
    text,
)

LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3
ELEM_KEY, ELEM_EXPR = 1, 7
DATA_VALUE, EXPR_DATA, COUNTER_PACKETS = 1, 2, 2
OBJ_TABLE, OBJ_NAME, OBJ_TYPE, OBJ_DATA = 1, 2, 3, 4
OBJECT_COUNTER = 1
PADDED = 4  # every field of a concatenated key fills whole 32-bit registers
_U64 = struct.Struct(">Q")

NFPROTO_NAMES = {2: "ipv4", 10: "ipv6"}


def _ifname(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()


def _ipv4(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, raw)


def _ipv6(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, raw)


def _nf_proto(raw: bytes) -> str:
    return NFPROTO_NAMES.get(raw[0], str(raw[0]))


def _service(raw: bytes) -> str:
    return str(int.from_bytes(raw, "big"))


FIELDS: dict[FieldType, tuple[int, Callable[[bytes], str]]] = {
    "ifname": (16, _ifname),
    "ipv4_addr": (4, _ipv4),
    "ipv6_addr": (16, _ipv6),
    "nf_proto": (1, _nf_proto),
    "inet_service": (2, _service),
}


def read_elements(netlink: Netlink, name: str, fields: tuple[FieldType, ...]) -> dict[Element, int]:
    """Every element of a set with its counter's packets (0 where elements have no counter).

    Raises NoSuchEntry when the table or the set is missing.
    """
    request = attribute(LIST_TABLE, TABLE) + attribute(LIST_SET, name)
    decode = _decoder(fields)
    return {decode(key): packets
            for answer in netlink.dump(GETSETELEM, NFPROTO_INET, request, f"reading set {name}")
            for key, packets in _elements(answer)}


def host_text(element: Element) -> str:
    """The host key for the address that rules/ keeps: IPv6 addresses there are masked to the host's /64."""
    address = element[0]
    return f"{address}/{IPV6_PREFIX_LENGTH}" if ":" in address else address


def read_counters(netlink: Netlink) -> dict[str, int]:
    """The table's named counters, in packets. Raises NoSuchEntry when the table is missing."""
    request = attribute(OBJ_TABLE, TABLE) + struct.pack("=HH", 8, OBJ_TYPE) + struct.pack(
        ">I", OBJECT_COUNTER)
    answers = netlink.dump(GETOBJ, NFPROTO_INET, request, "reading the counters")
    counters = {}
    for answer in answers:
        found = dict(attributes(answer))
        counters[text(found[OBJ_NAME])] = _packets(found[OBJ_DATA])
    return counters


def _decoder(fields: tuple[FieldType, ...]) -> Callable[[bytes], Element]:
    slots, position = [], 0
    for kind in fields:
        size, convert = FIELDS[kind]
        slots.append((position, position + size, convert))
        position += -(-size // PADDED) * PADDED
    return lambda key: tuple(convert(key[start:end]) for start, end, convert in slots)


def _elements(answer: memoryview) -> Iterator[tuple[bytes, int]]:
    for kind, payload in attributes(answer):
        if kind == LIST_ELEMENTS:
            for _, element in attributes(payload):
                yield _element(element)


def _element(element: memoryview) -> tuple[bytes, int]:
    found = dict(attributes(element))
    key = next(bytes(value) for kind, value in attributes(found[ELEM_KEY]) if kind == DATA_VALUE)
    expression = found.get(ELEM_EXPR)
    if expression is None:
        return key, 0
    return key, _packets(dict(attributes(expression))[EXPR_DATA])


def _packets(counter: memoryview) -> int:
    value: int = _U64.unpack_from(dict(attributes(counter))[COUNTER_PACKETS])[0]
    return value
