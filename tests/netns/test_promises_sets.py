"""Sixty thousand sources, forged or merely strange, and then a real attacker: all blocked, the attacker counted
exactly, what has no room is counted as such, and `status` says so."""

import pytest

from egressguard.core.ruleset import STRANGERS
from lab.deployment import Deployment
from lab.firewall import RULES, Firewall
from lab.network import ROUTER_MAC, WEB2
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire
from tests.promises import promise

WIRE = Wire("eth0", WEB2.mac, ROUTER_MAC["web"])
# The documentation networks of IPv4 hold 768 addresses: there, 128 sources meet a set with room for 32.
# IPv6 has its 60,000 hosts, and the set its real size.
PLAUSIBLE = {4: "198.51.100.128/25", 6: "2001:db8:8000::/48/64"}
FORGED = {4: "203.0.113.64/26", 6: "2001:db8:8000::/48/64"}
TARGET = {4: "203.0.113.130", 6: "2001:db8:ffff::130"}
ROUTE6 = "2001:db8:8000::/48"
STRANGER4, SMALL4 = "set stranger4 { type ipv4_addr; size 8192;", "set stranger4 { type ipv4_addr; size 32;"
ATTACKS = 1000
DEGRADED = 2
both_families = pytest.mark.parametrize("family", [4, 6])


def send(site: Deployment, family: int, source: str, count: int, per_second: float = 20_000) -> int:
    return SynSource(site.world.web2, WIRE, sources=[source], destinations=[TARGET[family]], count=count,
                     per_second=per_second).wait()


def attack_after_flood(site: Deployment, family: int, sources: int, *, plausible: bool) -> dict[str, int]:
    """The figures; strangers are plausible where the router has a route to them behind their interface."""
    if plausible and family == 6:
        site.world.router.ip(f"route add {ROUTE6} dev web")
    strange = (PLAUSIBLE if plausible else FORGED)[family]
    with CountingSniffer(site.world.outside, "eth0", port=25) as beyond:
        flood = send(site, family, strange, sources)
        sent = send(site, family, WEB2.addresses[family == 6], ATTACKS)
        leaked = beyond.stop()
    code, status = site.status()
    own = int(status["hosts"].get(WEB2.ipv4, {"attempts": 0})["attempts"])
    return {"leaked": leaked, "flood": flood, "sent": sent, "code": code, "of_attacker": own, **status["totals"]}


def judge(site: Deployment, family: int, found: dict[str, int], *, plausible: bool) -> None:
    assert found["leaked"] == 0
    assert found["of_attacker"] == found["sent"] == ATTACKS
    with Firewall(site.world) as firewall:
        name, fields = list(STRANGERS.items())[family == 6]
        strangers = firewall.elements(name, fields)
    if plausible:
        assert found["attempts"] == found["flood"] + found["sent"]
        assert sum(strangers.values()) + found["overflow"] == found["flood"]
        assert found["overflow"] > 0
        assert found["code"] >= DEGRADED
    else:
        assert found["spoofed"] == found["flood"]
        assert found["overflow"] == len(strangers) == 0


def size(found: dict[str, int]) -> str:
    return f"{found['flood']} SYNs of strange sources, then {found['sent']} of an inventory host"


def use_rules(site: Deployment, text: str) -> None:
    """Loads other rules than the project's, in place of the daemon's."""
    assert text != RULES.read_text("utf-8")
    (site.folder / "egressguard.nft").write_text(text)
    site.amend('rules = ""', f'rules = "{site.folder}"')
    assert site.egressguard("apply").returncode == 0


@both_families
def test_forged_sources_take_no_room_and_the_attacker_is_counted_exactly(
        site: Deployment, family: int, full: bool) -> None:
    site.start_router().kill()
    found = attack_after_flood(site, family, 60_000 if full else 12_000, plausible=False)
    judge(site, family, found, plausible=False)
    promise(4, f"forged SYNs outside, IPv{family}", found["leaked"], 0, size(found))
    promise(4, f"attempts of the real attacker counted, IPv{family}", found["of_attacker"], found["sent"], size(found))


@both_families
def test_a_full_set_of_strangers_neither_opens_nor_blinds(site: Deployment, family: int, full: bool) -> None:
    if family == 4:
        use_rules(site, RULES.read_text("utf-8").replace(STRANGER4, SMALL4))
    else:
        site.start_router().kill()
    found = attack_after_flood(site, family, 60_000 if full else 12_000, plausible=True)
    judge(site, family, found, plausible=True)
    promise(4, f"strangers' SYNs outside, IPv{family}", found["leaked"], 0, size(found))
    promise(4, f"strangers' attempts that had no room, all counted as overflow, IPv{family}", found["overflow"], "> 0",
            size(found))
    promise(4, f"exit code of `status` with a full set, IPv{family}", found["code"], "not 0", size(found))


MUTANTS = {
    "without the inventory's counters": ("\t\tip saddr & 0.0.5.85 vmap @shard4\n", "", True),
    "without the look at the source": (
        "\t\tfib saddr . iif oif missing goto spoof\n\t\tiifname != @inside_if", "\t\tiifname != @inside_if", False),
    "without the overflow counter": ("\t\tcounter name overflow\n", "", True),
    "whose drop hangs on a set": ("\t\tgoto refuse_or_watch\n", "\t\tupdate @stranger4 { ip saddr } drop\n", True),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_ruleset_is_noticed(site: Deployment, mutant: str) -> None:
    line, replacement, plausible = MUTANTS[mutant]
    text = RULES.read_text("utf-8").replace(STRANGER4, SMALL4)
    chains = text.index("# The port decides")
    assert line in text[chains:]
    use_rules(site, text[:chains] + text[chains:].replace(line, replacement, 1))
    found = attack_after_flood(site, 4, 9_500, plausible=plausible)
    with pytest.raises(AssertionError):
        judge(site, 4, found, plausible=plausible)
