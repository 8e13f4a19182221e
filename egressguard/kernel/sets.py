"""The elements and counters of a set, read in one dump.

A dump of a set that grows meanwhile can repeat elements and miss others, without saying so: the result
is a mapping, so repetitions fall together, and nobody may read "absent" as "gone" (core/attempts.py).
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from egressguard.core.hosts import IPV6_PREFIX_LENGTH, Host
from egressguard.core.ruleset import TABLE, Element, Fields, FieldType
from egressguard.kernel.fields import decoder
from egressguard.kernel.netlink import (
    GETOBJ,
    GETSETELEM,
    Netlink,
    attribute,
    attributes,
    text,
)

LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3
ELEM_KEY, ELEM_TIMEOUT, ELEM_EXPIRATION, ELEM_EXPR, ELEM_KEY_END = 1, 4, 5, 7, 10
DATA_VALUE, EXPR_DATA, COUNTER_BYTES, COUNTER_PACKETS = 1, 2, 1, 2
LIST_ELEMENT = 1
_ATTRIBUTE = struct.Struct("=HH")
TYPE_MASK = 0x3FFF
OBJ_TABLE, OBJ_NAME, OBJ_TYPE, OBJ_DATA = 1, 2, 3, 4
OBJECT_COUNTER = 1
_U64 = struct.Struct(">Q")

PLAIN: dict[FieldType, int] = {"ipv4_addr": 4, "ipv6_addr": 16}
IPV6_BYTES = 16
MASKED = f"/{IPV6_PREFIX_LENGTH}"


def read_elements(netlink: Netlink, name: str, fields: Fields) -> dict[Element, int]:
    """Every element of a set with its counter's packets (0 where elements have no counter).

    Raises NoSuchEntry when the table or the set is missing.
    """
    decode = decoder(name, fields)
    return {decode(key, end): packets for key, end, packets, _ in _all_elements(netlink, name)}


def read_leases(netlink: Netlink, name: str, fields: Fields) -> dict[Element, float]:
    """Every element of a set with the seconds that are left of its timeout (infinite without one)."""
    decode = decoder(name, fields)
    return {decode(key, end): left_s for key, end, _, left_s in _all_elements(netlink, name)}


class Texts(dict[bytes, Any]):
    """Keys of counted sets as the rest of the house knows them: a host, or a host and a destination.

    Each is made once: a hundred thousand are read every second, and making text is what costs.
    """

    MOST = 1_000_000

    def __missing__(self, key: bytes) -> Host | tuple[Host, str]:
        if len(self) >= self.MOST:
            self.clear()
        made = self[key] = _known(key)
        return made

    def of(self, place: tuple[str, int], keys: tuple[bytes, ...]) -> Iterable[Any]:
        """The texts of `keys`, which are the part of a set that `place` names."""
        return map(self.__getitem__, keys)


class StandingTexts(Texts):
    """The same for sets whose elements seldom change, such as an inventory's: the kernel hands them out in
    the same order every time, so what a part of a set was the last time is compared as a whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[tuple[str, int], tuple[bytes, tuple[Any, ...]]] = {}

    def of(self, place: tuple[str, int], keys: tuple[bytes, ...]) -> Iterable[Any]:
        """The texts of `keys`, which are the part of a set that `place` names."""
        before, run = self._parts.get(place), b"".join(keys)  # an object for each key: 5 MB in 100,000
        if before is None or before[0] != run:
            before = self._parts[place] = run, tuple(map(_known, keys))
        return before[1]


def _known(key: bytes) -> Host | tuple[Host, str]:
    size = 4 if len(key) < IPV6_BYTES else IPV6_BYTES
    host, rest = host_key(_text(key[:size])), key[size:]
    return (host, _text(rest)) if rest else host


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def read_counts(netlink: Netlink, name: str, fields: Fields, texts: Texts) -> dict[Any, int]:
    """Packets by host, or by host and destination, of a set of plain addresses with counters.

    Raises NoSuchEntry when the table or the set is missing.
    """
    width = sum(PLAIN[kind] for kind in fields)
    counts: dict[Any, int] = {}
    for part, (keys, packets) in enumerate(read_columns(netlink, name)):
        if not keys or len(keys[0]) != width:
            return _plain_counts(netlink, name, fields)
        counts.update(zip(texts.of((name, part), keys), packets, strict=True))
    return counts


def read_columns(netlink: Netlink, name: str) -> Iterator[tuple[tuple[bytes, ...], tuple[int, ...]]]:
    """Keys and packets, some hundred at a time; none of them where elements are not laid out alike.

    Raises NoSuchEntry when the table or the set is missing.
    """
    return (_columns(payload) or ((), ()) for payload in read_payloads(netlink, name))


def _plain_counts(netlink: Netlink, name: str, fields: Fields) -> dict[Any, int]:
    """The same, element by element, where they are not all laid out alike."""
    elements = read_elements(netlink, name, fields)
    return {(host_key(e[0]), e[1]) if len(e) > 1 else host_key(e[0]): n for e, n in elements.items()}


def read_payloads(netlink: Netlink, name: str) -> list[memoryview]:
    """A set's elements, some hundred in each. Raises NoSuchEntry when the table or the set is missing."""
    request = attribute(LIST_TABLE, TABLE) + attribute(LIST_SET, name)
    answers = netlink.dump(GETSETELEM, netlink.family, request, f"reading set {name}")
    return [payload for answer in answers for kind, payload in attributes(answer)
            if kind == LIST_ELEMENTS and payload]


def read_raw(netlink: Netlink, name: str) -> Iterator[memoryview]:
    """Every element's attributes. Raises NoSuchEntry when the table or the set is missing."""
    return (element for payload in read_payloads(netlink, name) for _, element in attributes(payload))


def _all_elements(netlink: Netlink, name: str) -> Iterator[tuple[bytes, bytes, int, float]]:
    return map(_element, read_raw(netlink, name))


def _columns(payload: memoryview) -> tuple[tuple[bytes, ...], tuple[int, ...]] | None:
    """Keys and packets of a list whose elements are all laid out as the first is; None if they are not.

    Every element's attribute headers are compared with the first one's, so that a different element is
    noticed and never misread.
    """
    layout = _layout(payload)
    if layout is None or len(payload) % layout.size:
        return None
    head, keys, expression, counter, packets = zip(*layout.iter_unpack(payload), strict=True)
    same = len(set(head)) == len(set(expression)) == len(set(counter)) == 1
    return (keys, packets) if same else None


def _layout(payload: memoryview) -> struct.Struct | None:
    """How the first element of a list is laid out: headers, key, headers, bytes, header, packets, rest."""
    try:
        _, size = _find(payload, 0, len(payload), LIST_ELEMENT)
        key_at, key_end = _find(payload, 4, size, ELEM_KEY, DATA_VALUE)
        packets_at, packets_end = _find(payload, 4, size, ELEM_EXPR, EXPR_DATA, COUNTER_PACKETS)
        bytes_at, _ = _find(payload, 4, size, ELEM_EXPR, EXPR_DATA, COUNTER_BYTES)
    except KeyError:
        return None
    if bytes_at + 12 != packets_at:
        return None
    padded = (size + 3) & ~3
    return struct.Struct(f">{key_at}s{key_end - key_at}s{bytes_at - key_end}s8x4sQ{padded - packets_end}x")


def _find(data: memoryview, start: int, end: int, *path: int) -> tuple[int, int]:
    """Where the payload of the attribute at `path` begins and ends. Raises KeyError."""
    position = start
    while position + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if kind & TYPE_MASK == path[0]:
            inner = position + 4, position + length
            return inner if len(path) == 1 else _find(data, *inner, *path[1:])
        position += max((length + 3) & ~3, 4)
    raise KeyError(path)


def read_counted(netlink: Netlink, name: str, fields: Fields, texts: Texts) -> frozenset[Element]:
    """The elements of a set of plain addresses with counters: an inventory's are compared every few seconds.

    Raises NoSuchEntry when the table or the set is missing.
    """
    hosts = read_counts(netlink, name, fields, texts)
    suffix = len(MASKED) if fields == ("ipv6_addr",) else 0
    return frozenset(zip([host[:-suffix] for host in hosts] if suffix else hosts, strict=True))


def host_key(address: str) -> Host:
    """The host key for the address that rules/ keeps: IPv6 addresses there are masked to the host's /64."""
    return Host(address + MASKED if ":" in address else address)


def read_counters(netlink: Netlink) -> dict[str, int]:
    """The table's named counters, in packets. Raises NoSuchEntry when the table is missing."""
    request = attribute(OBJ_TABLE, TABLE) + struct.pack("=HH", 8, OBJ_TYPE) + struct.pack(
        ">I", OBJECT_COUNTER)
    answers = netlink.dump(GETOBJ, netlink.family, request, "reading the counters")
    counters = {}
    for answer in answers:
        found = dict(attributes(answer))
        counters[text(found[OBJ_NAME])] = _packets(found[OBJ_DATA])
    return counters


def _elements(answer: memoryview) -> Iterator[tuple[bytes, bytes, int, float]]:
    for kind, payload in attributes(answer):
        if kind == LIST_ELEMENTS:
            for _, element in attributes(payload):
                yield _element(element)


def _element(element: memoryview) -> tuple[bytes, bytes, int, float]:
    """Key, end of the key's range, counted packets, seconds left."""
    found = dict(attributes(element))
    key = value_of(found[ELEM_KEY])
    end = value_of(found[ELEM_KEY_END]) if ELEM_KEY_END in found else key
    left_s = _U64.unpack_from(found[ELEM_EXPIRATION])[0] / 1000 if ELEM_EXPIRATION in found else float("inf")
    expression = found.get(ELEM_EXPR)
    packets = 0 if expression is None else _packets(dict(attributes(expression))[EXPR_DATA])
    return key, end, packets, left_s


def value_of(data: memoryview) -> bytes:
    """The bytes of a key or of other data."""
    return next(bytes(value) for kind, value in attributes(data) if kind == DATA_VALUE)


def _packets(counter: memoryview) -> int:
    value: int = _U64.unpack_from(dict(attributes(counter))[COUNTER_PACKETS])[0]
    return value
