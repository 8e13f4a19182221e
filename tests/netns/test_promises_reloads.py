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
from lab.network import WEB2
from lab.probes import Probes, Sent
from lab.sniffer import Sniffer
from tests.netns.test_survival import permitted_stream
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


def judge(site: Deployment, family: int, change: Callable[[], None]) -> tuple[list[int], Sent, int]:
    """Changes under traffic: packets of the sender, and those lost; SYNs of everybody else, and how many were counted."""
    with no_packet_lost(site) as packets, permitted_stream(site.world, family), Probes(site.world, family, 5000, 5000) as probes:
        change()
    sent, status = probes.sent, site.status()[1]
    assert sent.leaked == 0
    assert packets[1] == 0
    counted = int(status["totals"]["attempts"])
    assert (counted, status["hosts"][WEB2.ipv4]["attempts"]) == (sent.all, sent.few)
    return packets, sent, counted


@both_families
def test_reloads_and_changes_of_the_allow_list_lose_no_packet_of_a_permitted_sender(
        site: Deployment, family: int, full: bool) -> None:
    router, times = site.start_router(), 150 if full else 12
    packets, sent, counted = judge(site, family, lambda: reload_again_and_again(site, router, times))
    assert sent.reached > 0.9 * sent.many, "the many met the forward hook"
    assert sent.early > 0.9 * sent.few, "the few were refused before it"
    promise(2, f"packets of a permitted sender lost, IPv{family}; its connection lives", packets[1], 0,
            f"{times} reloads and changes of the allow-list, {packets[0]} packets of the sender")
    size = f"{times} reloads, {sent.all} SYNs, {sent.reached} of them judged in the forward hook"
    promise(2, f"SYNs of everybody else that leaked meanwhile, IPv{family}", sent.leaked, 0, size)
    promise(2, f"attempts not counted meanwhile, IPv{family}", sent.all - counted, 0, size)


TABLE = "inet egressguard"
MUTANTS = {
    "its senders first": f"flush chain {TABLE} sender; flush set {TABLE} allow4; flush set {TABLE} allow6",
    "the forward hook first": f"flush chain {TABLE} egress_forward",
    "all but a drop in the early hook": f"insert rule {TABLE} egress_early tcp dport 25 drop",
}


@both_families
@pytest.mark.parametrize("first", MUTANTS)
def test_mutant_a_reload_that_takes_away(site: Deployment, family: int, first: str) -> None:
    router = site.start_router()
    router.terminate()
    router.wait(60)

    def harm_and_load() -> None:
        for _ in range(3):
            site.world.router.run(["nft", MUTANTS[first]])
            site.world.router.run(["nft", "-f", RULES])
            assert site.egressguard("apply").returncode == 0

    with pytest.raises(AssertionError):
        judge(site, family, harm_and_load)
