"""The most specific part of the policy decides, each limit on its own, in both families alike."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.hosts import Address, Host
from egressguard.core.verdict import State
from egressguard_milter.account import Kind
from egressguard_milter.matching import Matcher, parse_match, parse_sender
from egressguard_milter.mistakes import mistakes
from egressguard_milter.policy import Base, ClientRule, Group, KeyRates, KeyRule, Policy, Rates
from egressguard_milter.terms import Directory
from tests.relay.parts import as_address, parts, send

LADDER = Policy(
    limits=Base(messages=1, recipients=100),
    client=(ClientRule(match=("2001:db8::/32", "192.0.0.0/16"), messages=16),
            ClientRule(match=("2001:db8:0:1::/64", "192.0.2.0/24"), messages=24, group="web"),
            ClientRule(match=("2001:db8:0:1::7", "192.0.2.7"), messages=32),
            ClientRule(match=("example.org",), messages=7, open_connections=5),
            ClientRule(match=("www.example.org",), messages=8, unlimited=("recipients",)),
            ClientRule(match=("198.51.100.0/24",), group="web")),
    groups={"web": Group(messages=9, recipients=90, connections=3, shared=Rates(messages=50))})


def messages(address: str | None, name: str = "", policy: Policy = LADDER) -> int:
    return Directory(policy).client(as_address(address), name).standing.limit


@pytest.mark.parametrize(("address", "name", "limit"), [
    ("192.0.2.7", "www.example.org", 32), ("192.0.2.8", "www.example.org", 24), ("192.0.3.1", "", 16),
    ("2001:db8:0:1::7", "", 32), ("2001:db8:0:1::8", "", 24), ("2001:db8:9::1", "", 16),
    ("203.0.113.1", "www.example.org", 8), ("203.0.113.1", "WWW.Example.ORG.", 8),
    ("203.0.113.1", "mail.example.org", 7), ("2001:db9::1", "deep.www.example.org", 8),
    ("203.0.113.1", "notexample.org", 1), ("198.51.100.1", "", 9), ("203.0.113.1", "", 1), (None, "", 1)])
def test_address_then_networks_then_name_then_group_then_default(
        address: str | None, name: str, limit: int) -> None:
    assert messages(address, name) == limit


def test_each_limit_is_looked_up_on_its_own_and_says_where_it_is_from() -> None:
    allowance = Directory(LADDER).client(ip_address("192.0.2.7"), "www.example.org")
    caps = {cap.kind: cap.most for cap in allowance.claim.caps}
    assert caps == {Kind.MESSAGES: 32, Kind.CONNECTIONS: 3, Kind.REFUSED: 20}
    assert allowance.levels["open_connections"] == 5
    assert allowance.group == "web"
    assert [claim.key for claim in allowance.shared] == ["group web"]
    assert (allowance.sources["messages"], allowance.sources["connections"]) \
        == ("client 2001:db8:0:1::7, 192.0.2.7", "groups.web")


def test_an_ipv6_address_that_a_rule_names_pays_for_itself_and_the_verdict_is_on_its_64() -> None:
    policy = Policy(client=(ClientRule(match=("2001:db8::25",), messages=2000), ClientRule(match=("2001:db8::80",))))
    relay = parts(policy)
    assert send(relay.session("2001:db8::66"), 99) == 40
    assert send(relay.session("2001:db8::25"), 100) == 100
    assert send(relay.session("2001:db8::80"), 99) == 40
    assert send(relay.session("2001:db8::67"), 1) == 0
    assert send(relay.session("2001:db8::25"), 3000) == 1900
    judged = parts(policy, {Host("2001:db8::/64"): State.COMPROMISED})
    assert send(judged.session("2001:db8::25"), 999) == 100


def test_a_shared_budget_belongs_to_the_text_of_its_match() -> None:
    one = ClientRule(match=("192.0.2.0/24",), shared=Rates(messages=10))
    relay = parts(Policy(client=(one,)))
    assert send(relay.session(), 20) == 10
    relay.limits.use(Policy(client=(replace(one, shared=Rates(messages=12)),)))
    assert send(relay.session(), 20) == 2
    relay.limits.use(Policy(client=(replace(one, match=("192.0.2.0/24", "198.51.100.1")),)))
    assert send(relay.session(), 20) == 10


networks = st.lists(st.ip_addresses().flatmap(lambda a: st.integers(0, a.max_prefixlen).map(
    lambda length: ip_network(f"{a}/{length}", strict=False))), max_size=20, unique=True)


@given(networks, st.ip_addresses(), st.integers(0, 2**128))
def test_the_networks_found_are_those_of_a_naive_search_in_its_order(
        nets: list[IPv4Network | IPv6Network], address: Address, offset: int) -> None:
    inside = [n[offset % n.num_addresses] for n in nets]
    for tried in (address, *inside):
        expected = sorted((n for n in nets if tried in n), key=lambda n: -n.prefixlen)
        assert Matcher((n, n) for n in nets).find(tried, "") == expected


@pytest.mark.parametrize(("text", "value"), [
    ("192.0.2.1", "192.0.2.1"), ("192.0.2.1/32", "192.0.2.1"), ("[2001:db8::1]", "2001:db8::1"),
    ("2001:db8::1/128", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("WWW.Example.org.", "www.example.org"),
    (".example.org", "example.org"), ("192.0.2.0/24", "192.0.2.0/24")])
def test_a_match_is_understood(text: str, value: str) -> None:
    assert str(parse_match(text)) == value


@pytest.mark.parametrize(("text", "right"), [("::ffff:192.0.2.0/120", "192.0.2.0/24"), ("::ffff:0:0/96", "0.0.0.0/0")])
def test_a_network_of_mapped_addresses_is_refused_with_what_would_match(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"it is IPv4 in IPv6: write {right}"):
        parse_match(text)
    assert str(parse_match("::/0")) == "::/0"


@pytest.mark.parametrize("text", ["", "192.0.2.1/24", "192.0.2", "999.0.2.1", "a b", "a..b", "host/24", "-a.example",
                                  "2001:db8:::1", "x" * 64 + ".example"])
def test_a_match_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address, network or host name"):
        parse_match(text)


@pytest.mark.parametrize(("sender", "limit"), [
    ("a@x.example", 1), ("b@x.example", 2), ("c@sub.x.example", 2), ("root@anywhere.example", 3),
    ("d@else.example", 9), ("<>", None)])
def test_a_sender_is_looked_up_by_address_then_domain_then_user(sender: str, limit: int | None) -> None:
    policy = Policy(sender_limits=KeyRates(messages=9), sender=(
        KeyRule(match=("A@x.example",), messages=1), KeyRule(match=("x.example",), messages=2),
        KeyRule(match=("root@",), messages=3)))
    payer = Directory(policy).sender(sender)
    assert (payer[0].caps[0].most if payer else None) == limit


@pytest.mark.parametrize(("login", "limit"), [
    ("bob", 2), ("bob@relay.example", 2), ("alice", 9), ("alice@x.example", 3), ("@bob", 9), ("", None)])
def test_a_login_without_a_realm_is_meant_in_any_realm(login: str, limit: int | None) -> None:
    policy = Policy(login_limits=KeyRates(messages=9), login=(
        KeyRule(match=("bob",), messages=2), KeyRule(match=("alice@x.example",), messages=3)))
    payer = Directory(policy).login(login)
    assert (payer[0].caps[0].most if payer else None) == limit


def test_a_login_is_the_same_in_any_case() -> None:
    relay = parts(Policy(limits=Base(messages=1000), login_limits=KeyRates(messages=10), login=(
        KeyRule(match=("Bob@Example.org",), messages=7),)))
    session = relay.session()
    assert sum(send(session, 20, login=login) for login in ("ann", "Ann", "ANN", "aNn")) == 10
    assert sum(send(session, 20, login=login) for login in ("bob@example.org", "BOB@EXAMPLE.ORG")) == 7
    twice = Policy(login=(KeyRule(match=("bob",)), KeyRule(match=("BOB",))))
    assert [m.key for m in mistakes(twice)] == ["login.1.match"]


def test_the_null_sender_is_limited_when_it_is_named() -> None:
    payer = Directory(Policy(sender=(KeyRule(match=("<>",), messages=4),))).sender("<>")
    assert payer
    assert payer[0].caps[0].most == 4
    assert parse_sender("<>") == "<>"
