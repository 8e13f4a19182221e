"""Findings of the doctor from made-up surroundings: also those that the kernel of the tests cannot have."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from egressguard.core.canary import Fate, Flight, Run
from egressguard.core.diagnosis import diagnose, verdict
from egressguard.core.finding import Severity
from egressguard.core.foreign_rules import Foreign, Rule, foreign
from egressguard.core.routes import Route, wide
from egressguard.core.settings import Inside, Own, Sender, Settings
from egressguard.core.surroundings import PASSING, TUNNELS, Link, Surroundings
from egressguard.core.versions import promises

INSIDE, OWN = frozenset({"web"}), frozenset({"203.0.113.1"})
SETTINGS = Settings(inside=(Inside(("web",), (ip_network("198.51.100.0/24"),)),))
WEB, WAN = Link("web", addresses=("198.51.100.1/24",)), Link("wan", default_route=frozenset({4, 6}))
SYSCTL = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "netfilter/nf_conntrack_max": "1000",
          "netfilter/nf_conntrack_count": "1", "ipv4/conf/all/rp_filter": "1", "ipv4/conf/web/accept_source_route": "1"}
GOOD = Surroundings(SETTINGS, {"egress_forward": "forward -10 1"}, links=(Link("lo"), WEB, WAN), sysctl=SYSCTL,
                    canary=Run(1.0, (Flight(4, Fate.REFUSED, "refused"), Flight(6, Fate.REFUSED, "refused"))))


def link(*links: Link) -> Surroundings:
    return replace(GOOD, links=(*GOOD.links, *links))


def switch(**keys: str) -> Surroundings:
    return replace(GOOD, sysctl={**SYSCTL, **{key.replace("__", "/"): value for key, value in keys.items()}})


def fates(fate: Fate) -> Surroundings:
    return replace(GOOD, canary=Run(1.0, (Flight(4, fate, "told"),)))


def test_nothing_wrong_is_no_finding() -> None:
    assert diagnose(GOOD) == []
    assert verdict([]) is Severity.NOTE


@pytest.mark.parametrize(("seen", "severity", "name"), [
    (replace(GOOD, own_hooks=None), 3, "table"),
    (replace(GOOD, dormant=True), 3, "table"),
    (replace(GOOD, own_hooks={"egress_output": "output -10 1"}), 3, "table"),
    (fates(Fate.LEAKED), 3, "canary"), (fates(Fate.UNCOUNTED), 2, "canary"), (fates(Fate.UNABLE), 2, "canary"),
    (fates(Fate.GROUNDED), 2, "canary"),
    (switch(ipv4__ip_forward="0"), 0, "forwarding"),
    (switch(ipv4__ip_forward="0", ipv6__conf__all__forwarding="0"), 3, "forwarding"),
    (replace(GOOD, links=(replace(WEB, default_route=frozenset({6})), WAN)), 3, "default route inside"),
    (replace(GOOD, links=(replace(WEB, xdp=True), WAN)), 2, "xdp"),
    (replace(GOOD, links=(replace(WEB, filtered=True), WAN)), 2, "tc"),
    (replace(GOOD, links=(replace(WEB, kind="wireguard"), WAN)), 2, "tunnel inside"),
    (replace(GOOD, foreign=Foreign(flowtables=(("inet fw flowtable f", ("web", "wan")),))), 2, "flowtable"),
    (switch(netfilter__nf_conntrack_max="0"), 2, "conntrack"),
    (switch(netfilter__nf_conntrack_count="801"), 2, "conntrack"),
    (switch(ipv6__conf__all__seg6_enabled="1", ipv6__conf__web__seg6_enabled="1"), 2, "source routing"),
    (switch(ipv4__conf__all__accept_source_route="1"), 2, "source routing"),
    (switch(ipv4__conf__all__rp_filter="0"), 0, "rp_filter"),
    (replace(GOOD, legacy=("ip filter",)), 0, "iptables-legacy"),
    (replace(GOOD, legacy=("ip filter", "ip nat")), 2, "iptables-legacy"),
    (link(Link("lte0", addresses=("203.0.113.9/32",))), 0, "uplink"),
])
def test_each_bad_condition_is_found(seen: Surroundings, severity: int, name: str) -> None:
    found = diagnose(seen)
    assert {finding.name for finding in found} == {name}
    assert verdict(found) == severity
    assert all(finding.found and finding.why and finding.right for finding in found)


@pytest.mark.parametrize("kind", sorted(TUNNELS))
def test_every_kind_of_tunnel_is_a_further_way_out_NOT_ON_REAL_INTERFACES(kind: str) -> None:  # noqa: N802
    assert [f.name for f in diagnose(link(Link("t0", kind)))] == ["tunnel"]
    assert diagnose(link(Link("t0", kind, up=False))) == [], "the kernel makes tunl0 and sit0 by itself, down"


@pytest.mark.parametrize("kind", sorted(PASSING))
def test_what_passes_beside_the_stack_is_found_NOT_ON_REAL_INTERFACES(kind: str) -> None:  # noqa: N802
    assert [f.name for f in diagnose(link(Link("m0", kind)))] == ["beside the stack"]


def test_a_flowtable_is_found_BUT_NO_REAL_ONE_WAS_MADE_since_this_kernel_has_none() -> None:  # noqa: N802
    listing: list[dict[str, Any]] = [{"flowtable": {"family": "inet", "name": "f", "table": "fw", "hook": "ingress", "dev": ["web", "wan"]}},
                                     {"flowtable": {"family": "ip", "name": "g", "table": "fw", "dev": "wan"}}]
    found = foreign(listing, INSIDE, OWN)
    assert found.flowtables == (("inet fw flowtable f", ("web", "wan")), ("ip fw flowtable g", ("wan",)))
    assert verdict(diagnose(replace(GOOD, foreign=found))) is Severity.WEAKENS


def routed(*routes: tuple[str, bool]) -> Surroundings:
    return replace(GOOD, routes=tuple(Route("web", ip_network(n), onward) for n, onward in routes))


@pytest.mark.parametrize(("network", "onward", "name"), [
    ("192.0.2.0/24", True, "route inside"), ("198.51.0.0/16", True, "route inside"), ("2001:db8::/32", True, "route inside"),
    ("192.0.2.0/24", False, "network inside"), ("198.51.100.0/24", False, ""), ("198.51.100.128/25", True, ""),
    ("fe80::/64", False, ""), ("ff00::/8", False, ""), ("224.0.0.0/4", False, ""),
])
def test_a_route_by_an_inside_interface_leads_into_an_inside_network(network: str, onward: bool, name: str) -> None:
    assert [f.name for f in diagnose(routed((network, onward)))] == ([name] if name else [])


def test_a_route_may_cover_several_inside_networks_together_and_many_are_counted() -> None:
    halves = replace(SETTINGS, inside=(Inside(("web",), (ip_network("198.51.100.0/25"), ip_network("198.51.100.128/25"))),))
    assert diagnose(replace(routed(("198.51.100.0/24", True)), settings=halves)) == []
    one, = diagnose(routed(*[(f"10.{n}.0.0/16", True) for n in range(10)]))
    assert one.found.startswith("10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16 and 7 more lies")


@pytest.mark.parametrize(("network", "expected"), [
    ("0.0.0.0/0", True), ("128.0.0.0/1", True), ("64.0.0.0/3", True), ("10.0.0.0/8", False), ("16.0.0.0/4", False),
    ("::/0", True), ("2000::/3", True), ("2002::/16", True), ("2001:db8::/32", False), ("fd00::/8", False), ("ff00::/8", False)])
def test_what_only_the_internet_is_as_wide_as(network: str, expected: bool) -> None:
    assert wide(ip_network(network)) is expected


@pytest.mark.parametrize("kind", ["vrf", "bond", "team"])
def test_an_inside_interface_of_a_vrf_or_bond_is_found_NOT_ON_REAL_INTERFACES(kind: str) -> None:  # noqa: N802
    seen = replace(GOOD, links=(replace(WEB, master="above"), WAN, Link("above", kind)))
    found = [f for f in diagnose(seen) if f.name == "enslaved interface"]
    assert [f.right for f in found] == ["name above in [[inside]] instead"]


RELAY = Sender("relay", (ip_address("198.51.100.9"),))


@pytest.mark.parametrize(("ways", "own", "found"), [
    ({"198.51.100.9": "web"}, set(), 0), ({"198.51.100.9": "wan"}, set(), 1), ({}, set(), 1), ({}, {"198.51.100.9"}, 0)])
def test_a_sender_lives_where_its_route_leads(ways: dict[str, str], own: set[str], found: int) -> None:
    seen = replace(GOOD, settings=replace(SETTINGS, sender=(RELAY,)), ways=ways, own=frozenset(own))
    assert [f.name for f in diagnose(seen)] == ["sender's place"] * found


def test_an_inside_interface_that_is_not_there_is_found() -> None:
    assert next(f.name for f in diagnose(replace(GOOD, links=(WAN, replace(WEB, name="web9"))))) == "inside interface"


def test_a_router_that_guards_only_itself_need_not_forward() -> None:
    seen = switch(ipv4__ip_forward="0", ipv6__conf__all__forwarding="0")
    seen = replace(seen, settings=replace(SETTINGS, own=Own(guard=True)))
    assert verdict(diagnose(seen)) is Severity.NOTE


def test_a_canary_that_has_nothing_to_fly_over_is_no_finding_of_its_own() -> None:
    seen = replace(fates(Fate.GROUNDED), sysctl={**SYSCTL, "ipv4/ip_forward": "0"})
    assert [f.name for f in diagnose(seen)] == ["forwarding"]


def match(field: str, right: Any, op: str = "==", protocol: str = "tcp") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


def iifname(right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": "iifname"}}, "right": right}}


def rules(*expressions: dict[str, Any], hook: str = "prerouting") -> tuple[Rule, ...]:
    chain = {"family": "inet", "table": "t", "name": "c", "hook": hook, "prio": -100, "type": "nat"}
    rule = {"family": "inet", "table": "t", "chain": "c", "expr": list(expressions)}
    return foreign([{"metainfo": {}}, {"chain": chain}, {"rule": rule}], INSIDE, OWN).rules


REDIRECT = {"redirect": {"port": 2525}}


@pytest.mark.parametrize(("conditions", "concerned"), [
    ([match("dport", 25)], True), ([match("dport", 26)], False), ([match("dport", {"set": [25, 587]})], True),
    ([match("dport", {"set": [{"range": [20, 30]}, 99]})], True), ([match("dport", {"range": [26, 30]})], False),
    ([match("dport", "@ports")], True), ([match("dport", 25, "!=")], False), ([match("dport", 80, "!=")], True),
    ([match("dport", 53, protocol="udp")], False), ([match("dport", 25, protocol="th")], True), ([], True),
    ([iifname("wan"), match("dport", 25)], False), ([iifname("web"), match("dport", 25)], True),
    ([iifname({"set": ["wan", "web"]})], True), ([iifname("wan", "!=")], True), ([iifname("@ifs")], True),
    ([match("daddr", "203.0.113.1", protocol="ip")], False), ([match("daddr", "203.0.113.9", protocol="ip")], True),
    ([match("protocol", "tcp", protocol="ip")], True), ([match("protocol", "udp", protocol="ip")], False),
])
def test_a_rule_concerns_smtp_unless_its_conditions_exclude_it(conditions: list[dict[str, Any]], concerned: bool) -> None:
    assert bool(rules(*conditions, REDIRECT)) is concerned


def xt(name: str, kind: str = "target") -> dict[str, Any]:
    return {"xt": {"type": kind, "name": name}}


@pytest.mark.parametrize(("expressions", "name", "severity"), [
    ((match("dport", 25), xt("DNAT")), "redirect", 3), ((xt("DNAT"),), "redirect", 2),
    ((match("dport", 25), xt("addrtype", "match"), xt("DNAT")), "redirect", 2), ((match("dport", 80), xt("DNAT")), "", 0),
    ((xt("TEE"),), "copied", 2), ((xt("ECHO"),), "unknown target", 2), ((xt("LOG"),), "", 0), (({"xt": None},), "", 0),
    ((iifname("we*"), match("dport", 25), xt("CT")), "notrack", 2), ((iifname("wan*"), xt("CT")), "", 0),
])
def test_iptables_own_targets_are_judged_and_its_conditions_count_as_met(expressions: tuple[dict[str, Any], ...], name: str,
                                                                         severity: int) -> None:
    found = diagnose(replace(GOOD, foreign=Foreign(rules(*expressions))))
    assert ([f.name for f in found], verdict(found)) == ([name] if name else [], severity)


def test_a_doctor_who_knows_no_target_of_iptables_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.core.foreign_rules._target", lambda what: "")
    assert rules(match("dport", 25), xt("DNAT")) == ()


def test_rules_of_our_own_table_and_of_unhooked_chains_are_none_of_the_doctors() -> None:
    ours = {"family": "inet", "table": "egressguard"}
    listing: list[dict[str, Any]] = [
        {"chain": {**ours, "name": "c", "hook": "prerouting", "prio": 0}},
        {"rule": {**ours, "chain": "c", "expr": [REDIRECT]}},
        {"rule": {"family": "ip", "table": "x", "chain": "loose", "expr": [REDIRECT]}},
        {"rule": {"family": "ip", "table": "x", "chain": "xt", "expr": [{"xt": None}]}}]
    assert foreign(listing, INSIDE, OWN) == Foreign()


def test_versions_say_which_promises_hold() -> None:
    def held(kernel: tuple[int, ...], nft: tuple[int, ...]) -> set[str]:
        return {promise.name for promise in promises(kernel, nft) if promise.holds}

    assert held((5, 4), (0, 9, 8)) == set()
    assert "lease extension" not in held((6, 11), (1, 1, 0))
    assert "persistent owner" not in held((6, 12), (1, 0, 6))
    assert {"lease extension", "persistent owner", "owner flag"} <= held((6, 12), (1, 1, 0))
