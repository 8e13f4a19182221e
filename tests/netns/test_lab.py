"""The lab itself, with no firewall in it: what is sent arrives, what arrives is seen, all of it ends."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mail import send, send_burst
from lab.namespaces import NETNS_FOLDER, LabError, Namespace
from lab.network import (
    HOST_INTERFACE,
    INSIDE,
    INTERNET4,
    RELAY,
    ROUTER_MAC,
    SOMEBODY4,
    SOMEBODY6,
    WEB1,
    WEB2,
    World,
    answers,
)
from lab.postfix import Postfix
from lab.sink import Sink
from lab.sniffer import CountingSniffer, Sniffer, SnifferOverflow
from lab.syns import SynSource, Wire

SMTP = 25
FLOOD = 20_000
SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
WEB2_WIRE = Wire(HOST_INTERFACE, WEB2.mac, ROUTER_MAC["web"])
WEB_SERVERS = ("198.51.100.0/24", "[2001:db8:0:11::]/64", "[2001:db8:0:12::]/64")

both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as built:
        yield built


@pytest.fixture(scope="module")
def sink(world: World) -> Iterator[Sink]:
    with Sink(world.outside) as listening:
        yield listening


def ours() -> set[str]:
    """The names of this process's namespaces."""
    mark = f"eg-{os.getpid()}-"
    return {path.name for path in NETNS_FOLDER.iterdir() if path.name.startswith(mark)}


@both_families
def test_every_inside_host_reaches_the_internet(world: World, family: int) -> None:
    for host in world.inside:
        assert host.call(answers, SOMEBODY[family], timeout_s=10.0), host.label


@both_families
def test_inside_hosts_reach_each_other(world: World, family: int) -> None:
    for place in INSIDE:
        address = place.addresses[family == 6]
        assert all(host.call(answers, address, timeout_s=10.0) for host in world.inside), address


@both_families
def test_direct_mail_is_forwarded_to_the_sink(world: World, sink: Sink, family: int) -> None:
    subject = f"direct {family}"
    reply = send(world.web1, SOMEBODY[family], recipients=["a@four.example"], subject=subject)
    assert reply.accepted, reply
    wait_for_subject(sink, subject, WEB1.addresses[family == 6])


@both_families
def test_postfix_relays_to_the_sink(world: World, sink: Sink, family: int) -> None:
    routes = {"four.example": SOMEBODY4, "six.example": SOMEBODY6}
    with Postfix(world.relay, networks=WEB_SERVERS, routes=routes) as relay:
        domain = list(routes)[family == 6]
        subject = f"relayed {family}"
        server = RELAY.addresses[family == 6]
        reply = send(world.web1, server, recipients=[f"a@{domain}"], subject=subject)
        assert reply.accepted, reply
        wait_for_subject(sink, subject, server)
        relay.wait_for_log("status=sent")
        assert relay.queued() == 0
        refused = send(world.mailserver, server, recipients=[f"a@{domain}"])
        assert (refused.code, "Relay access denied" in refused.text) == (554, True)


def test_a_burst_returns_every_reply(world: World, sink: Sink) -> None:
    replies = send_burst(
        world.web1, SOMEBODY4, 12, parallel=4, recipients=["a@four.example"], subject="burst"
    )
    assert [reply.code for reply in replies] == [250] * 12


@both_families
def test_the_sniffer_sees_exactly_the_syns_of_connections(world: World, sink: Sink, family: int) -> None:
    with Sniffer(world.outside, HOST_INTERFACE) as sniffer:
        for _ in range(5):
            assert world.web1.call(answers, SOMEBODY[family], SMTP, timeout_s=10.0)
            assert world.web1.call(answers, SOMEBODY[family], SMTP + 1, timeout_s=10.0)
        packets = sniffer.stop()
    syns = [packet for packet in packets if packet.pure_syn]
    assert {(syn.source, syn.destination) for syn in syns} == {
        (WEB1.addresses[family == 6], SOMEBODY[family])
    }
    assert len({syn.source_port for syn in syns}) == 5
    assert len(packets) > len(syns)


@both_families
def test_the_source_counts_what_the_sniffers_see(world: World, family: int) -> None:
    with (
        Sniffer(world.outside, HOST_INTERFACE) as sniffer,
        CountingSniffer(world.outside, HOST_INTERFACE, port=SMTP) as counter,
    ):
        source = SynSource(
            world.web2,
            WEB2_WIRE,
            sources=[WEB2.addresses[family == 6]],
            destinations=[SOMEBODY[family]],
            count=FLOOD,
        )
        sent = source.wait()
        assert sent == FLOOD
        assert sum(packet.pure_syn for packet in sniffer.stop()) == sent
        assert counter.stop() == sent


def test_sources_and_destinations_take_turns(world: World) -> None:
    with Sniffer(world.outside, HOST_INTERFACE) as sniffer:
        SynSource(
            world.web2,
            WEB2_WIRE,
            sources=["198.51.100.64/26"],
            destinations=[INTERNET4],
            count=64 * 128,
        ).wait()
        syns = [packet for packet in sniffer.stop() if packet.pure_syn]
    assert len({(syn.source, syn.destination) for syn in syns}) == len(syns) == 64 * 128


def test_a_rate_and_a_time_bound_the_source(world: World) -> None:
    begin = time.monotonic()
    sent = SynSource(
        world.web2,
        WEB2_WIRE,
        sources=[WEB2.ipv4],
        destinations=[SOMEBODY4],
        count=FLOOD,
        per_second=100,
        seconds=0.5,
    ).wait()
    # Never more than the rate allows in the time that really passed, the first one included.
    assert 0 < sent <= 100 * (time.monotonic() - begin) + 1
    assert sent < FLOOD


def test_a_source_that_is_ended_at_once_says_so_and_one_that_cannot_begin_fails(world: World) -> None:
    """However long it takes to begin, on a machine that is busy."""
    def source(wire: Wire) -> SynSource:
        return SynSource(world.web2, wire, sources=[WEB2.ipv4], destinations=[SOMEBODY4], count=10_000_000, per_second=100)

    assert source(WEB2_WIRE).stop() >= 0
    begun = source(WEB2_WIRE)
    begun.wait_until_begun()
    time.sleep(0.1)
    assert begun.stop() > 0
    with pytest.raises(LabError, match="No such device"):
        source(Wire("nowhere", WEB2.mac, ROUTER_MAC["web"])).wait_until_begun()


def test_an_overflow_is_an_error_and_no_smaller_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.sniffer.BUFFER_BYTES", 1)
    with (
        Sniffer(world.outside, HOST_INTERFACE) as sniffer,
        CountingSniffer(world.outside, HOST_INTERFACE, port=SMTP) as counter,
    ):
        sent = SynSource(
            world.web2,
            WEB2_WIRE,
            sources=[WEB2.ipv4],
            destinations=[SOMEBODY4],
            count=FLOOD,
        ).wait()
        assert counter.stop() == sent
        with pytest.raises(SnifferOverflow):
            sniffer.stop()


def test_closing_ends_every_process_and_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.namespaces.TERM_S", 0.5)
    before = ours()
    with World() as world, Sink(world.outside), Postfix(world.relay) as relay:
        stubborn = world.web1.popen(["sh", "-c", "trap '' TERM; sleep 600 & wait; sleep 600"])
        daemon = "setsid sleep 600 >/dev/null 2>&1 & echo $!"
        forked = int(world.web1.run(["sh", "-c", daemon]).stdout)
        master = int((relay.folder / "spool/pid/master.pid").read_text())
        assert len(ours() - before) == 3 + len(INSIDE)
    assert ours() == before
    assert stubborn.poll() is not None
    assert not any(running(pid) for pid in (forked, master))
    assert not relay.folder.exists()


def test_a_failure_while_building_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: World) -> None:
        raise KeyboardInterrupt

    before = ours()
    monkeypatch.setattr(World, "_warm", refuse)
    with pytest.raises(KeyboardInterrupt):
        World()
    assert ours() == before


def test_the_next_run_removes_what_a_crashed_one_left() -> None:
    crash = (
        "import os, subprocess\nfrom lab.namespaces import Namespace\n"
        "host = Namespace('left')\nhost.popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        "print(host.name, flush=True)\nos._exit(1)"
    )
    run = subprocess.run(
        [sys.executable, "-c", crash],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    left = NETNS_FOLDER / run.stdout.strip()
    assert left.name.endswith("-left")
    with Namespace("next"):
        assert not left.exists()


def test_a_failed_program_is_named_with_its_output() -> None:
    with Namespace("alone") as host, pytest.raises(LabError, match="no such thing"):
        host.run(["sh", "-c", "echo no such thing >&2; exit 3"])


def test_without_root_the_lab_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="run it as root"):
        Namespace("nobody")


def wait_for_subject(sink: Sink, subject: str, client: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [message for message in sink.messages() if message.subject == subject]
        if found:
            assert [message.client for message in found] == [client]
            return
        time.sleep(0.05)
    raise AssertionError(f"{subject!r} did not arrive")


def running(pid: int) -> bool:
    """Whether the process still runs; one that only waits for its parent to notice does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
