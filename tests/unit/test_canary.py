"""What a canary's trace proves, and its packets as bytes."""

import json
from dataclasses import asdict
from ipaddress import ip_address

import pytest

from egressguard.core.canary import Fate, Run, Trace, judge, run_of, summary
from egressguard.kernel.canary_packets import answer, checksum, syn
from lab.packets import parse

MACS = bytes(6), bytes(6)
PAIRS = [("192.0.2.254", "203.0.113.254"), ("2001:db8:0:ca::2", "2001:db8:ffff:ca::2")]


@pytest.mark.parametrize(("trace", "fate", "words"), [
    (Trace("x", 1, answer="reset"), Fate.REFUSED, "refused (reset)"),
    (Trace("x", 1), Fate.REFUSED, "refused (silently)"),
    (Trace("x", 2), Fate.UNCOUNTED, "counted 2 times"),
    (Trace("x", 0), Fate.UNCOUNTED, "did not reach the rules"),
    (Trace("x", 0, spoofed=1), Fate.UNCOUNTED, "forged"),
    (Trace("x", 0, odd=1), Fate.UNCOUNTED, "odd"),
    (Trace("x", 0, overflow=1), Fate.UNCOUNTED, "no room"),
    (Trace("x", 0, answer="reset"), Fate.UNCOUNTED, "did not reach the rules"),
    (Trace("x", 1, ("wan",), "reset"), Fate.LEAKED, "left by wan: the rules counted it and let it pass"),
    (Trace("x", 0, ("wan", "wan2")), Fate.LEAKED, "left by wan, wan2: it did not reach the rules"),
    (Trace("x", 0, led_inside=("dmz",), answer="accepted"), Fate.UNCOUNTED, "led to a host behind dmz"),
    (Trace("x", 0, led_inside=("dmz",)), Fate.UNCOUNTED, "led to a host behind dmz"),
    (Trace("x", 1, answer="accepted"), Fate.LEAKED, "redirects"),
])
def test_only_what_did_not_leave_and_was_counted_once_is_refused(trace: Trace, fate: Fate, words: str) -> None:
    flight = judge(4, trace)
    assert flight.fate is fate
    assert words in flight.text


def test_a_run_survives_its_way_through_a_file() -> None:
    run = Run(5.0, (judge(4, Trace("x", 1)), judge(6, Trace("y", 0))))
    assert run_of(json.loads(json.dumps(asdict(run)))) == run
    assert "y did not reach the rules" in summary(run)
    assert run_of(None) is None


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_its_syn_is_a_syn_with_right_checksums(source: str, destination: str) -> None:
    frame = syn(ip_address(source), ip_address(destination), 0x01020304, MACS)
    packet = parse(frame)
    assert packet is not None
    assert packet.pure_syn
    assert (packet.source, packet.destination, packet.destination_port) == (source, destination, 25)
    header, length = (frame[14:34], 20) if ":" not in source else (frame[14:54], 40)
    if length == 20:
        assert checksum(header) == 0
    pseudo = ip_address(source).packed + ip_address(destination).packed + bytes([0, 0, 0, 20, 0, 0, 0, 6])
    assert checksum(pseudo + frame[14 + length:]) == 0


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x60", b"\x45" + bytes(60), b"\x60" + bytes(80), b"\xff" * 40])
def test_what_is_no_answer_is_none(packet: bytes) -> None:
    assert answer(packet, 7) == ""
