"""Reloads and changes of the allow-list under a permitted sender's traffic: it loses no packet."""

import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.deployment import Deployment
from lab.firewall import RULES
from lab.namespaces import wait_until
from lab.sniffer import Sniffer
from tests.netns.test_survival import flood, kernel_count, nothing_leaks, permitted_stream
from tests.promises import promise

NEW_SENDER = '[[sender]]\nname = "new"\naddresses = ["198.51.100.99"]'
both_families = pytest.mark.parametrize("family", [4, 6])


@contextmanager
def no_packet_lost(site: Deployment) -> Iterator[list[int]]:
    """What the relay sends to port 25 arrives outside, recorded on both wires; yields [sent, lost] afterwards."""
    found: list[int] = []
    with Sniffer(site.world.relay, "eth0", direction="out") as left, Sniffer(site.world.outside, "eth0") as arrived:
        yield found
        sent = len(left.stop())
        found += [sent, sent - len(arrived.stop())]


def reload_again_and_again(site: Deployment, router: subprocess.Popen[Any], times: int) -> None:
    """In turns: the daemon takes another allow-list over, or an admin loads the rules file again."""
    plain = site.router_config.read_text()
    texts = itertools.cycle([f"{plain}\n{NEW_SENDER}\n", plain])
    for n in range(times):
        if n % 2:
            site.world.router.run(["nft", "-f", RULES])
            continue
        site.router_config.write_text(next(texts))
        router.send_signal(signal.SIGHUP)
        due = n // 2 + 1
        wait_until(lambda due=due: site.log("egressguard").count("reloaded mode=") >= due, "the reload")  # type: ignore[misc]


def judge(site: Deployment, family: int, change: Callable[[], None]) -> tuple[int, int, int, int]:
    """Changes under traffic: packets of the sender, and those lost; SYNs of the bot, and those not counted."""
    with no_packet_lost(site) as packets, permitted_stream(site.world, family), nothing_leaks(site.world):
        source = flood(site.world, family, False)
        change()
        sent = source.stop()
    uncounted = sent - kernel_count(site)
    assert packets[1] == 0
    assert uncounted == 0
    return packets[0], packets[1], sent, uncounted


@both_families
def test_reloads_and_changes_of_the_allow_list_lose_no_packet_of_a_permitted_sender(
        site: Deployment, family: int, full: bool) -> None:
    router, times = site.start_router(), 150 if full else 12
    packets, lost, syns, uncounted = judge(site, family, lambda: reload_again_and_again(site, router, times))
    promise(2, f"packets of a permitted sender lost, IPv{family}; its connection lives", lost, 0,
            f"{times} reloads and changes of the allow-list, {packets} packets of the sender")
    promise(2, f"attempts not counted meanwhile, IPv{family}", uncounted, 0, f"{times} reloads, {syns} SYNs")


def test_mutant_a_reload_that_flushes_first_loses_packets(site: Deployment) -> None:
    router = site.start_router()
    router.terminate()
    router.wait(60)

    def flush_and_load() -> None:
        for _ in range(3):
            site.world.router.run(["nft", "flush", "chain", "inet", "egressguard", "sender"])
            site.world.router.run(["nft", "flush", "set", "inet", "egressguard", "allow4"])
            site.world.router.run(["nft", "-f", RULES])
            assert site.egressguard("apply").returncode == 0

    with pytest.raises(AssertionError):
        judge(site, 4, flush_and_load)
