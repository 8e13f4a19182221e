"""Which elements somebody has put into a set, as kernels of both kinds list it."""

import struct

import pytest

from egressguard.kernel.planted import planted_keys
from egressguard.kernel.sets import ELEM_EXPIRATION, ELEM_KEY, ELEM_TIMEOUT

NESTED, LIST_ITEM, DATA_VALUE = 0x8000, 1, 1
HOUR, NINE_HOURS = 3_600_000, 9 * 3_600_000
PACKETS, SOMEBODYS = b"\xc6\x33\x64\x50", b"\xc6\x33\x64\x4d"


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def element(key: bytes, timeout_ms: int | None) -> bytes:
    """One as the kernel lists it; None: the kernel does not name its timeout."""
    named = b"" if timeout_ms is None else attribute(ELEM_TIMEOUT, struct.pack(">Q", timeout_ms))
    return attribute(LIST_ITEM | NESTED, attribute(ELEM_KEY | NESTED, attribute(DATA_VALUE, key)) + named
                     + attribute(ELEM_EXPIRATION, struct.pack(">Q", 1000)))


def planted(*elements: bytes, timeout_ms: int = HOUR) -> list[bytes]:
    return list(planted_keys(memoryview(b"".join(elements)), struct.pack(">Q", timeout_ms)))


@pytest.mark.parametrize("of_a_packet", [HOUR, None], ids=["before 6.12", "6.12"])
def test_what_packets_have_written_was_planted_by_nobody(of_a_packet: int | None) -> None:
    assert planted(*[element(PACKETS, of_a_packet)] * 100) == []
    assert planted(element(PACKETS, of_a_packet), element(SOMEBODYS, NINE_HOURS),
                   element(PACKETS, of_a_packet)) == [SOMEBODYS]


def test_an_element_that_never_ends_was_planted() -> None:
    assert planted(element(PACKETS, None), element(SOMEBODYS, 0)) == [SOMEBODYS]


def test_a_key_that_looks_like_a_timeout_hides_none() -> None:
    """Whoever chooses the addresses chooses bytes."""
    looks_so = struct.pack("=HH", 12, ELEM_TIMEOUT) + struct.pack(">Q", HOUR)
    assert planted(element(looks_so, None), element(SOMEBODYS, NINE_HOURS)) == [SOMEBODYS]
    assert planted(element(looks_so[:4] + bytes(8), None)) == []
