"""SIGKILL at random instants of applies, under a flood: nothing leaks, every SYN is counted, no apply is torn."""

import json
import sys
from dataclasses import dataclass

import pytest

from lab.deployment import Deployment
from lab.network import WEB2
from lab.probes import Probes, Sent
from tests.promises import promise

FULL_PER_SECOND = 50_000

both_families = pytest.mark.parametrize("family", [4, 6])


@dataclass
class Outcome:
    """What was sent, counted and seen outside while applies were killed; `of_web2` was counted for that host alone."""

    sent: Sent
    counted: int
    by_host: int
    of_web2: int
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
    with Probes(site.world, family, per_second, per_second or 10_000) as probes:
        done = site.world.router.run([sys.executable, "-m", "lab.kills", *two_configurations(site), "--kills", str(kills),
                                      "--seed", str(family), *options], timeout_s=900)
    status = site.status()[1]
    counts = {host: int(found["attempts"]) for host, found in status["hosts"].items()}
    return Outcome(probes.sent, int(status["totals"]["attempts"]), sum(counts.values()), counts[WEB2.ipv4],
                   **json.loads(done.stdout))


def judge(outcome: Outcome) -> None:
    assert outcome.sent.leaked == 0
    assert (outcome.counted, outcome.by_host, outcome.of_web2) == (outcome.sent.all, outcome.sent.all, outcome.sent.few)
    assert outcome.torn == 0


@both_families
def test_sigkills_at_random_instants_of_applies_leak_nothing_and_lose_no_count(
        site: Deployment, family: int, full: bool) -> None:
    kills = 500 if full else 20
    outcome = kill_applies(site, family, kills, 0 if full else 5_000)
    judge(outcome)
    sent = outcome.sent
    assert outcome.within > kills / 4, "many kills hit an apply"
    assert sent.reached > 0.9 * sent.many, "the many met the forward hook"
    assert sent.early > 0.9 * sent.few, "the few were refused before it"
    size = (f"{outcome.kills} kills, {outcome.within} of them within one of {outcome.applies + outcome.within} applies; "
            f"{sent.all} SYNs, {sent.per_second:,.0f} a second, {sent.reached} of them judged in the forward hook")
    promise(1, f"SYNs that leaked while applies were killed, IPv{family}", sent.leaked, 0, size)
    promise(1, f"SYNs sent and not counted, IPv{family}", sent.all - outcome.counted, 0, size)
    promise(1, f"applies that were torn, IPv{family}", outcome.torn, 0, size)
    if full:
        assert sent.per_second >= FULL_PER_SECOND, "the flood was too weak to prove anything"


HARMS = {"the whole table is empty": "flush table inet egressguard",
         "only the forward hook is": "flush chain inet egressguard egress_forward",
         "only the early one drops, uncounted": "insert rule inet egressguard egress_early iifname web tcp dport 25 drop"}


@both_families
@pytest.mark.parametrize("moment", HARMS)
def test_mutant_an_apply_with_a_moment_in_which(site: Deployment, family: int, moment: str) -> None:
    outcome = kill_applies(site, family, 20, 5_000, "--first", HARMS[moment])
    with pytest.raises(AssertionError):
        judge(outcome)


def test_a_moment_without_the_early_hook_is_none_of_danger(site: Deployment) -> None:
    """It only refuses sooner what the forward hook refuses as well."""
    judge(kill_applies(site, 4, 20, 5_000, "--first", "flush chain inet egressguard egress_early"))
