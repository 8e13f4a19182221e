"""Killing, stopping and reloading under traffic: nothing leaks, nothing permitted is lost, no count is lost."""

import random
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.deployment import Deployment
from lab.namespaces import wait_until
from lab.network import ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB2, World
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire

RULES = Path(__file__).parents[2] / "rules" / "egressguard.nft"
FLOOD = {"count": 60_000, "per_second": 10_000.0}
FULL_FLOOD = {"count": 3_000_000, "per_second": 50_000.0}
WIRE = Wire("eth0", WEB2.mac, ROUTER_MAC["web"])

both_families = pytest.mark.parametrize("family", [4, 6])


def flood(world: World, family: int, full: bool) -> SynSource:
    size = FULL_FLOOD if full else FLOOD
    return SynSource(world.web2, WIRE, sources=[WEB2.addresses[family == 6]],
                     destinations=["203.0.113.128/28"] if family == 4 else ["2001:db8:ffff::/124"],
                     count=int(size["count"]), per_second=size["per_second"], seconds=120)


def disturb(source: SynSource, harm: Callable[[], None]) -> tuple[int, int]:
    """Does `harm` again and again until the source ends; the number sent, and how often harm was done."""
    times, sent = 0, list[int]()
    waiter = threading.Thread(target=lambda: sent.append(source.wait()))
    waiter.start()
    while waiter.is_alive():
        harm()
        times += 1
    waiter.join()
    return sent[0], times


def kernel_count(site: Deployment) -> int:
    return int(site.status()[1]["hosts"][WEB2.ipv4]["attempts"])


def recorded_count(site: Deployment) -> int:
    """What history has added up; it must not depend on how often the daemon died."""
    with sqlite3.connect(f"file:{site.folder}/router.db?mode=ro", uri=True) as db:
        row = db.execute("SELECT attempts FROM verdict WHERE host = ?", (WEB2.ipv4,)).fetchone()
    db.close()
    return int(row[0]) if row else 0


@contextmanager
def nothing_leaks(world: World) -> Iterator[None]:
    """No SYN to port 25 may be seen beyond the WAN interface."""
    with CountingSniffer(world.outside, "eth0", port=25) as beyond:
        yield
        assert beyond.stop() == 0, "SYNs leaked"


@both_families
def test_sigkill_of_the_daemon_leaks_nothing_and_loses_no_count(site: Deployment, family: int, full: bool) -> None:
    router = site.start_router()
    dice = random.Random(family)
    with nothing_leaks(site.world):
        def kill() -> None:
            nonlocal router
            time.sleep(dice.uniform(0.0, 0.3))
            router.kill()
            router.wait()
            router = site.start_router()

        sent, kills = disturb(flood(site.world, family, full), kill)
    assert kills >= 3
    wait_until(lambda: recorded_count(site) == sent, f"{sent} recorded attempts")
    assert kernel_count(site) == sent


@both_families
def test_sigkill_between_read_and_record_repeats_nothing(site: Deployment, family: int) -> None:
    """The instant at which most could go wrong: SIGKILL at the n-th write to the database's files."""
    router = site.start_router()
    for n in (1, 2, 3, 5, 8):
        source = SynSource(site.world.web2, WIRE, sources=[WEB2.addresses[family == 6]],
                           destinations=[SOMEBODY4 if family == 4 else SOMEBODY6], count=500, per_second=2000)
        tracer = site.world.router.popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject=pwrite64:signal=SIGKILL:when={n}+",
             "-p", str(router.pid)], stderr=subprocess.DEVNULL)
        source.wait()
        router.wait(60)
        tracer.wait(60)
        router = site.start_router()
    wait_until(lambda: recorded_count(site) == 2500, "2500 recorded attempts")


@both_families
def test_a_clean_stop_leaves_enforcement_in_place(site: Deployment, family: int) -> None:
    router = site.start_router()
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0
    with nothing_leaks(site.world):
        sent = flood(site.world, family, False).wait()
    code, status = site.status()
    assert (code, status["mode"], status["daemon"]["runs"]) == (2, "enforce", False)
    assert "daemon does not run" in status["findings"][0]["text"]
    site.start_router()
    wait_until(lambda: recorded_count(site) == sent, "what was counted meanwhile")


@both_families
def test_reloading_the_rules_under_traffic_loses_nothing(site: Deployment, family: int, full: bool) -> None:
    site.start_router()
    with permitted_stream(site.world, family), nothing_leaks(site.world):
        sent, reloads = disturb(flood(site.world, family, full),
                                lambda: _nft(site.world, "-f", str(RULES)))
    assert reloads >= 20
    assert kernel_count(site) == sent
    assert site.status()[1]["rules_intact"]


@both_families
def test_a_foreign_flush_is_repaired(site: Deployment, family: int) -> None:
    site.start_router()
    _nft(site.world, "flush", "ruleset")
    wait_until(lambda: site.status()[0] == 0, "a healthy status")
    with nothing_leaks(site.world):
        assert flood(site.world, family, False).wait() == kernel_count(site)


@both_families
def test_the_rules_alone_block_without_python(fresh_world: World, family: int) -> None:
    _nft(fresh_world, "-f", str(RULES))
    with nothing_leaks(fresh_world):
        flood(fresh_world, family, False).wait()
        assert not fresh_world.relay.call(_reaches, SOMEBODY4 if family == 4 else SOMEBODY6)


@both_families
def test_mutant_without_the_last_drop_leaks(fresh_world: World, tmp_path: Path, family: int) -> None:
    """The sniffer of all these tests sees a leak when there is one."""
    mutant = tmp_path / "mutant.nft"
    mutant.write_text(RULES.read_text().replace("jump remember\n\t\tdrop", "jump remember\n\t\taccept"))
    assert mutant.read_text() != RULES.read_text()
    _nft(fresh_world, "-f", str(mutant))
    with pytest.raises(AssertionError, match="SYNs leaked"), nothing_leaks(fresh_world):
        flood(fresh_world, family, False).wait()


def test_mutant_reload_by_deleting_the_table_loses_counts(site: Deployment) -> None:
    """The count of these tests notices a reload that is not ours."""
    router = site.start_router()
    router.terminate()
    router.wait(60)
    with pytest.raises((AssertionError, KeyError)):
        sent, _ = disturb(flood(site.world, 4, False), lambda: _nft(
            site.world, f"delete table inet egressguard; include \"{RULES}\""))
        assert kernel_count(site) == sent


def _nft(world: World, *arguments: str) -> None:
    world.router.run(["nft", *arguments])


def _reaches(destination: str) -> bool:
    try:
        socket.create_connection((destination, 25), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def permitted_stream(world: World, family: int) -> Iterator[None]:
    """An SMTP-port connection of the relay to the outside that talks all the time; every byte must arrive.

    TCP would repair a lost packet, so the router's own count of what it let through is no evidence: the
    retransmissions of the sending socket are.
    """
    listener = world.outside.call(socket.create_server, ("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
    client = world.relay.call(socket.create_connection, (SOMEBODY4 if family == 4 else SOMEBODY6, 25), 10)
    server, _ = listener.accept()
    stop, got = threading.Event(), [0, 0]

    def talk() -> None:
        while not stop.is_set():
            client.sendall(b"x" * 100)
            got[0] += 100
            got[1] += len(server.recv(100, socket.MSG_WAITALL))

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        yield
    finally:
        stop.set()
        talker.join()
        retransmitted = _retransmissions(client)
        for s in (client, server, listener):
            s.close()
    assert got[0] == got[1] > 0, "the permitted sender's connection lives"
    assert retransmitted == 0, "a packet of a permitted sender was lost"


def _retransmissions(connection: socket.socket) -> int:
    """tcpi_total_retrans of struct tcp_info (linux/tcp.h), at byte 100."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[100:104], "little")
