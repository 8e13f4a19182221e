"""SIGKILL at random instants of applies, under a flood: nothing leaks, every SYN is counted, no apply is torn."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.deployment import Deployment
from lab.network import ROUTER_MAC, WEB2
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire
from tests.promises import promise

ROOT = Path(__file__).parents[2]
WIRE = Wire("eth0", WEB2.mac, ROUTER_MAC["web"])
DESTINATIONS = {4: "203.0.113.128/28", 6: "2001:db8:ffff::/124"}
FULL_PER_SECOND = 50_000

both_families = pytest.mark.parametrize("family", [4, 6])


@dataclass
class Outcome:
    """What was sent, counted and seen outside while applies were killed."""

    sent: int
    counted: int
    leaked: int
    per_second: float
    kills: int
    applies: int
    within: int
    torn: int


def two_configurations(site: Deployment) -> list[str]:
    """They differ in a permitted sender."""
    other = site.folder / "other.toml"
    other.write_text(site.router_config.read_text() + '[[sender]]\nname = "new"\naddresses = ["198.51.100.99"]\n')
    return [str(site.router_config), str(other)]


def kill_applies(site: Deployment, family: int, kills: int, per_second: float, *options: str) -> Outcome:
    assert site.egressguard("apply").returncode == 0
    with CountingSniffer(site.world.outside, "eth0", port=25) as beyond:
        flood = SynSource(site.world.web2, WIRE, sources=[WEB2.addresses[family == 6]],
                          destinations=[DESTINATIONS[family]], count=10**9, per_second=per_second, seconds=900)
        done = site.world.router.run([sys.executable, "-m", "lab.kills", *two_configurations(site), "--kills", str(kills),
                                      "--seed", str(family), *options], timeout_s=900)
        sent = flood.stop()
        leaked = beyond.stop()
    counted = int(site.status()[1]["hosts"][WEB2.ipv4]["attempts"])
    return Outcome(sent, counted, leaked, flood.per_second, **json.loads(done.stdout))


def judge(outcome: Outcome) -> None:
    assert outcome.leaked == 0
    assert outcome.counted == outcome.sent
    assert outcome.torn == 0


@both_families
def test_sigkills_at_random_instants_of_applies_leak_nothing_and_lose_no_count(
        site: Deployment, family: int, full: bool) -> None:
    kills = 500 if full else 20
    outcome = kill_applies(site, family, kills, 0 if full else 5_000)
    judge(outcome)
    assert outcome.within > kills / 4, "many kills hit an apply"
    size = (f"{outcome.kills} kills, {outcome.within} of them within one of {outcome.applies + outcome.within} applies; "
            f"{outcome.sent} SYNs, {outcome.per_second:,.0f} a second")
    promise(1, f"SYNs that leaked while applies were killed, IPv{family}", outcome.leaked, 0, size)
    promise(1, f"SYNs sent and not counted, IPv{family}", outcome.sent - outcome.counted, 0, size)
    promise(1, f"applies that were torn, IPv{family}", outcome.torn, 0, size)
    if full:
        assert outcome.per_second >= FULL_PER_SECOND, "the flood was too weak to prove anything"


def test_mutant_an_apply_in_two_steps_leaks(site: Deployment) -> None:
    outcome = kill_applies(site, 4, 20, 5_000, "--in-two-steps")
    with pytest.raises(AssertionError):
        judge(outcome)
