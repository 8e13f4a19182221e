"""What `hosts --would-block` lists in mode observe is what mode enforce blocks of the same packets: in both families,
with groups of either mode, for ports that are shut and ports that are only counted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.bridged import BridgedDeployment
from lab.deployment import Deployment
from lab.firewall import BRIDGE_RULES, RULES
from lab.hypervisor import Hypervisor
from lab.network import RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB1, WEB2, Place
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire
from tests.netns.test_firewall import WEB1_NETWORK, both_families, say

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
ENFORCED = ("enforce", "enforce")
MODES = [ENFORCED, ("observe", None), ("observe", "enforce"), ("enforce", "observe"), ("observe", "observe")]
# How many SYNs each host sends to which port: web1 belongs to a group that names 465 and 587.
SYNS = {("web1", 25): 5, ("web1", 465): 7, ("web1", 587): 11, ("web2", 25): 13, ("web2", 465): 17, ("relay", 25): 19}
PLACES = {place.name: place for place in (WEB1, WEB2, RELAY)}


def group(mode: str | None, family: int) -> str:
    return (f'[[group]]\nname = "customers"\nnetworks = ["{WEB1_NETWORK[family]}"]\nalso_block = [465]\nalso_count = [587]\n'
            + (f'mode = "{mode}"' if mode else ""))


def send(site: Deployment, family: int, place: Place, port: int, count: int) -> int:
    """How many of so many SYNs got out."""
    host = getattr(site.world, place.name)
    with CountingSniffer(site.world.outside, "eth0", port=port) as beyond:
        wire = Wire("eth0", place.mac, ROUTER_MAC[place.segment])
        assert SynSource(host, wire, sources=[place.addresses[family == 6]], destinations=[SOMEBODY[family]],
                         count=count, port=port).wait() == count
        return beyond.stop()


def send_all(site: Deployment, family: int) -> dict[str, int]:
    """How many SYNs of each host did not get out."""
    stayed: dict[str, int] = {}
    for (name, port), count in SYNS.items():
        got_out = send(site, family, PLACES[name], port, count)
        stayed[name] = stayed.get(name, 0) + count - got_out
    return {name: count for name, count in stayed.items() if count}


def listed(site: Deployment, *arguments: str) -> dict[str, tuple[int, int]]:
    """Attempts, and what was only counted, of each host that is listed."""
    hosts = json.loads(say(site, "hosts", *arguments, "--json")).values()
    return {host["name"]: (host["attempts"], host["counted_only"]) for host in hosts}


def it_lists_what_enforce_blocks(site: Deployment, family: int, modes: tuple[str, str | None]) -> None:
    site.write_router_config(modes[0])
    site.amend("", group(modes[1], family))
    site.start_router()
    stayed = send_all(site, family)
    assert listed(site, "--would-block") == {"web1": (12, 11), "web2": (13, 0)}
    assert listed(site)["web1"] == (12, 11)
    totals = site.status()[1]["totals"]
    assert (totals["attempts"], totals["blocked"], totals["counted"]) == (25, 25, 11)
    if modes == ENFORCED:
        assert stayed == {"web1": 12, "web2": 13}, "what it lists is what it blocks"
    else:
        assert sum(stayed.values()) < 25


@both_families
@pytest.mark.parametrize("modes", MODES)
def test_what_is_listed_in_any_mode_is_what_enforce_blocks(site: Deployment, family: int, modes: tuple[str, str | None]) -> None:
    it_lists_what_enforce_blocks(site, family, modes)


MUTANTS = {
    "that takes a counted port for a shut one": ("\t\tth dport . ip saddr @count_only4 goto only_counted\n", ""),
    "that takes what is only counted for an attempt": ("== syn jump counted\n", "== syn jump attempt\n"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_ruleset_is_noticed(site: Deployment, mutant: str) -> None:
    old, new = MUTANTS[mutant]
    text = RULES.read_text("utf-8")
    assert old in text
    (site.folder / "egressguard.nft").write_text(text.replace(old, new, 1))
    site.rules = site.folder
    with pytest.raises(AssertionError):
        it_lists_what_enforce_blocks(site, 4, ENFORCED)


@both_families
def test_only_counted_is_no_evidence_and_a_forged_source_is_nobodys(site: Deployment, family: int) -> None:
    site.amend("", group(None, family))
    site.start_router()
    somewhere = {4: "203.0.113.128/27", 6: "2001:db8:ffff::100/123"}[family]
    wire = Wire("eth0", WEB1.mac, ROUTER_MAC["web"])
    for source in (WEB1.addresses[family == 6], SOMEBODY[family]):
        SynSource(site.world.web1, wire, sources=[source], destinations=[somewhere], count=32, port=587).wait()
    assert listed(site, "--would-block") == {}
    assert listed(site)["web1"] == (0, 32)
    code, status = site.status()
    assert (code, status["hosts"][WEB1.ipv4]["verdict"], status["hosts"][WEB1.ipv4]["fan_out"]) == (0, "clean", 0)
    assert status["totals"]["attempts"] == 0


@both_families
def test_who_has_an_exception_is_not_listed_as_long_as_it_stands(site: Deployment, family: int) -> None:
    site.write_router_config("observe")
    site.start_router()
    assert send(site, family, WEB2, 25, 3) == send(site, family, WEB1, 25, 2) + 1 == 3
    assert set(listed(site, "--would-block")) == {"web1", "web2"}
    say(site, "allow", WEB2.addresses[family == 6], "--for", "10m", "--reason", "a migration")
    assert send(site, family, WEB2, 25, 3) == 3
    assert listed(site, "--would-block") == {"web1": (2, 0)}
    assert listed(site)["web2"] == (3, 0), "under the exception nothing was counted"
    say(site, "allow", WEB1.ipv4, "--to", "203.0.113.200", "--for", "10m", "--reason", "a smarthost")
    assert set(listed(site, "--would-block")) == {"web1"}, "one destination is not all"
    say(site, "release", WEB2.ipv4, "--reason", "done")
    assert set(listed(site, "--would-block")) == {"web1", "web2"}


@pytest.fixture
def bridged(root: None, tmp_path: Path) -> Iterator[BridgedDeployment]:
    with Hypervisor() as built:
        yield BridgedDeployment(built, tmp_path)


@both_families
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_on_a_bridge_it_is_the_same(bridged: BridgedDeployment, family: int, mode: str) -> None:
    assert "only_counted" in BRIDGE_RULES.read_text("utf-8")
    network = {4: f"{WEB2.ipv4}/32", 6: "2001:db8:0:12::/64"}[family]
    bridged.write_router_config(mode)
    bridged.amend("", f'[[group]]\nname = "g"\nnetworks = ["{network}"]\nalso_block = [465]\nalso_count = [587]')
    bridged.start_router()
    left = {port: send(bridged, family, WEB2, port, count) for port, count in ((25, 5), (465, 7), (587, 11))}
    assert left == ({25: 0, 465: 0, 587: 11} if mode == "enforce" else {25: 5, 465: 7, 587: 11})
    assert listed(bridged, "--would-block") == {"web2": (12, 11)}
    totals = bridged.status()[1]["beside"]["bridge"]["totals"]
    assert (totals["attempts"], totals["blocked"], totals["counted"]) == (12, 12, 11)
