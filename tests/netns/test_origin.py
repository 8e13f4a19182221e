"""Whose a packet is: what comes from beside the inside interfaces is refused, is held against nobody and takes no host's
room; a sender's address is worth something only where it lives; what a neighbour sends is not the sender's; answers
that nobody has asked for stay outside; a quarantined host reaches no relay on the router. Each with a ruleset that
does it wrong."""

import errno
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from ipaddress import ip_address

import pytest

from egressguard.exchange import open_exchange
from lab.deployment import ROUTER, Deployment
from lab.firewall import RULES
from lab.headers import Flow, ip, tcp
from lab.namespaces import LabError, impatient, wait_until
from lab.network import MAILSERVER, OUTSIDE, RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB1, WEB2
from lab.packets import ACK, SYN
from lab.sink import Sink
from lab.sniffer import Sniffer
from lab.syns import SynSource, Wire
from tests.netns.test_firewall import SOMEBODY, both_families, outcome, say, throw

FROM_INSIDE = '\t\tiifname != @inside_if iifname != @bridged_if iifname != "egcanary0" goto transit\n'
TEXT = RULES.read_text("utf-8")
FROM_OUTSIDE = Wire("eth0", OUTSIDE.mac, ROUTER_MAC["wan"])
STRANGER = {4: "203.0.113.200", 6: "2001:db8:fffe:1::25"}
UNUSED = {4: [f"203.0.113.{n}" for n in range(140, 152)], 6: [f"2001:db8:ffff::{n}" for n in range(140, 152)]}
KEY = {4: STRANGER[4], 6: "2001:db8:fffe:1::/64"}
# The documentation networks of IPv4 hold few addresses: there, 128 sources meet sets with room for 32.
MANY = {4: ("203.0.113.128/25", 128), 6: ("2001:db8:8000::/48/64", 12_000)}


def use_rules(site: Deployment, text: str) -> None:
    """Other rules than the project's, for the daemon that will be started."""
    for name in ("bridge.nft", "last_line.nft"):
        (site.folder / name).write_text(RULES.with_name(name).read_text("utf-8"))
    (site.folder / "egressguard.nft").write_text(text)
    site.amend('rules = ""', f'rules = "{site.folder}"')


def who_scans_us_is_no_host(site: Deployment, family: int, text: str) -> None:
    use_rules(site, text)
    site.start_router()
    with Sniffer(site.world.outside, "eth0", direction="in") as back:
        sent = SynSource(site.world.outside, FROM_OUTSIDE, sources=[STRANGER[family]], destinations=UNUSED[family],
                         count=12).wait()
        wait_until(lambda: site.status()[1]["totals"]["blocked"] == sent, "the count of what was refused")
        assert [p for p in back.stop() if p.pure_syn] == []
    code, status = site.status()
    assert (code, status["hosts"]) == (0, {})
    assert (status["totals"]["transit"], status["totals"]["attempts"]) == (sent, 0)
    assert status["transit"] == {"wan": {"attempts": sent, "hosts": {KEY[family]: sent}}}
    assert f"12 attempts came in by wan, lately of {KEY[family]}" in " ".join(site.egressguard("status").stdout.split())


def the_internet_takes_nobodys_room(site: Deployment, family: int, text: str) -> None:
    if family == 4:
        text = text.replace("size 8192", "size 32").replace("size 1024; flags dynamic,timeout; timeout 1h", "size 32; flags dynamic,timeout; timeout 1h")
    use_rules(site, text)
    site.start_router()
    sources, count = MANY[family]
    sent = SynSource(site.world.outside, FROM_OUTSIDE, sources=[sources], destinations=UNUSED[family][:1], count=count,
                     per_second=6000).wait()
    source, to = WEB2.addresses[family == 6], (SOMEBODY4, SOMEBODY6)[family == 6]
    for host, mac in ((site.world.web2, WEB2.mac), (site.world.web1, WEB1.mac)):
        SynSource(host, Wire("eth0", mac, ROUTER_MAC["web"]), sources=[source], destinations=[to], count=1).wait()
    wait_until(lambda: site.status()[1]["totals"]["blocked"] == sent + 2, "the count of what was refused")
    status = site.status()[1]
    assert "may be framing it" in str(status["findings"]), "web2's second MAC"
    assert (status["totals"]["overflow"], status["totals"]["mac_overflow"], status["totals"]["transit"]) == (0, 0, sent)
    assert list(status["hosts"]) == [WEB2.ipv4]


def a_quarantined_host_reaches_no_relay_on_the_router(site: Deployment, family: int, text: str) -> None:
    use_rules(site, text)
    site.start_router()
    gateway = (WEB2.ipv4_gateway, WEB2.ipv6_gateway)[family == 6]
    with Sink(site.world.router), Sink(site.world.router, port=26):
        assert site.world.web2.call(outcome, gateway) == 0
        talk = site.world.web2.call(socket.create_connection, (gateway, 25), 5)
        with talk:
            talk.settimeout(60)
            assert talk.recv(100).startswith(b"220")
            say(site, "quarantine", "web2", "--for", "10m", "--reason", "it spams")
            talk.settimeout(1)
            with suppress(ConnectionError):
                talk.sendall(b"HELO x\r\n")
            with pytest.raises((TimeoutError, ConnectionError)):
                assert talk.recv(100) == b"", "an open connection goes on"
        assert site.world.web2.call(outcome, gateway) == errno.ECONNREFUSED
        assert site.world.web2.call(outcome, gateway, 26) == 0, "another port"
        assert site.world.web1.call(outcome, (WEB1.ipv4_gateway, WEB1.ipv6_gateway)[family == 6]) == 0
        assert site.world.router.call(outcome, gateway) == 0, "the router itself"
        assert site.status()[1]["totals"]["quarantined"] >= 2
        say(site, "release", "web2", "--reason", "cleaned")
        assert site.world.web2.call(outcome, gateway) == 0


def two_interfaces(site: Deployment, *more: str) -> None:
    """One [[inside]] for both segments, as somebody writes it who has much to do."""
    site.amend(ROUTER[ROUTER.index("[[inside]]"):], "\n".join([
        "[[inside]]", 'interfaces = ["dmz", "web"]', *more, 'networks = ["192.0.2.0/26", "2001:db8:0:a::/64", "2001:db8:0:b::/64", '
        '"198.51.100.0/24", "2001:db8:0:11::/64", "2001:db8:0:12::/64"]\n']))


def forged(site: Deployment, family: int, count: int = 20) -> int:
    """How many SYNs with the relay's address leave that were sent from behind the other interface."""
    with Sniffer(site.world.outside, "eth0", direction="in") as arrived:
        SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[RELAY.addresses[family == 6]],
                  destinations=UNUSED[family], count=count).wait()
        return len([p for p in arrived.stop() if p.pure_syn])


def a_senders_address_leaves_only_from_where_it_lives(site: Deployment, family: int, text: str) -> None:
    use_rules(site, text)
    two_interfaces(site)
    site.start_router()
    assert forged(site, family) == 0
    with Sink(site.world.outside):
        assert site.world.relay.call(outcome, SOMEBODY[family]) == 0
    totals = site.status()[1]["totals"]
    assert (totals["spoofed"], totals["blocked"], totals["attempts"]) == (20, 20, 0)


def an_exception_holds_only_where_its_host_lives(site: Deployment, family: int, text: str) -> None:
    use_rules(site, text)
    two_interfaces(site)
    site.start_router()
    say(site, "allow", "web1", "--for", "10m", "--reason", "a migration")
    with Sniffer(site.world.outside, "eth0", direction="in") as arrived:
        SynSource(site.world.mailserver, Wire("eth0", MAILSERVER.mac, ROUTER_MAC["dmz"]), sources=[WEB1.addresses[family == 6]],
                  destinations=UNUSED[family], count=20).wait()
        assert [p for p in arrived.stop() if p.pure_syn] == []
    with Sink(site.world.outside):
        assert site.world.web1.call(outcome, SOMEBODY[family]) == 0
    totals = site.status()[1]["totals"]
    assert (totals["spoofed"], totals["blocked"], totals["attempts"]) == (20, 20, 0)


def answers_that_nobody_asked_for_stay_outside(site: Deployment, family: int, text: str) -> None:
    """Somebody sends SYNs with web2's address elsewhere; the mail server answers to it."""
    use_rules(site, text)
    site.start_router()
    flow = Flow(ip_address(SOMEBODY[family]), ip_address(WEB2.addresses[family == 6]), 25, 5555)
    head = bytes.fromhex((ROUTER_MAC["wan"] + OUTSIDE.mac).replace(":", "")) + (b"\x08\x00" if family == 4 else b"\x86\xdd")
    with Sniffer(site.world.web2, "eth0", ports=(5555,), direction="in") as arrived:
        site.world.outside.call(throw, [head + ip(flow, tcp(flow, SYN | ACK))])
        assert arrived.stop() == []
    assert site.status()[1]["totals"]["unasked"] == 1
    with Sink(site.world.outside):
        assert site.world.relay.call(outcome, SOMEBODY[family]) == 0
        say(site, "allow", "web1", "--for", "10m", "--reason", "a migration")
        assert site.world.web1.call(outcome, SOMEBODY[family]) == 0
    with Sink(site.world.outside, port=80):
        assert site.world.web2.call(outcome, SOMEBODY[family], 80) == 0
    assert site.status()[1]["totals"]["unasked"] == 1


Check = Callable[[Deployment, int, str], None]
MUTANTS: dict[Check, tuple[str, str]] = {
    who_scans_us_is_no_host: (FROM_INSIDE, ""),
    the_internet_takes_nobodys_room: (FROM_INSIDE, ""),
    a_quarantined_host_reaches_no_relay_on_the_router: (
        "\t\tiifname \"lo\" return\n", "\t\treturn\n"),
    a_senders_address_leaves_only_from_where_it_lives: (
        "\t\tiifname @shared_if fib saddr . iif oif missing counter name blocked goto spoof\n", ""),
    an_exception_holds_only_where_its_host_lives: (
        "\t\ttcp flags & (fin|syn|rst|ack) == syn iifname @shared_if fib saddr . iif oif missing counter name blocked goto spoof\n", ""),
    answers_that_nobody_asked_for_stay_outside: ("\t\tth dport != @smtp_ports goto answered\n", "\t\tth dport != @smtp_ports return\n"),
}
both_families_and_every_check = pytest.mark.parametrize(("check", "family"), [
    pytest.param(check, family, id=f"{check.__name__}-{family}") for check in MUTANTS for family in (4, 6)])


@both_families_and_every_check
def test_that(site: Deployment, check: Check, family: int) -> None:
    check(site, family, TEXT)


@both_families_and_every_check
def test_a_ruleset_is_noticed_unless(site: Deployment, check: Check, family: int) -> None:
    old, new = MUTANTS[check]
    assert old in TEXT
    with impatient(), pytest.raises((AssertionError, LabError, pytest.fail.Exception)):
        check(site, family, TEXT.replace(old, new, 1))


@both_families
def test_where_routing_is_asymmetric_by_design_a_sender_may_come_by_each_interface(site: Deployment, family: int) -> None:
    two_interfaces(site, "asymmetric = true")
    site.start_router()
    assert forged(site, family) == 20


def test_what_a_neighbour_in_the_senders_64_tries_is_his_own(site: Deployment) -> None:
    """Also not with its own IPv4 address, forged where the MAC tells; and no relay is told of it."""
    site.amend('name = "relay"', f'name = "relay"\nmac = "{RELAY.mac}"')
    site.start_router()
    for source, to in (("2001:db8:0:a::666", UNUSED[6]), (RELAY.ipv4, UNUSED[4])):
        SynSource(site.world.mailserver, Wire("eth0", MAILSERVER.mac, ROUTER_MAC["dmz"]), sources=[source],
                  destinations=to, count=12).wait()
    wait_until(lambda: "is compromised" in str(site.status()[1]["findings"]), "a verdict on the neighbour")
    status = site.status()[1]
    assert [f["text"] for f in status["findings"] if f["exit_code"] == 1] == ["host 2001:db8:0:a::/64 (beside relay) is compromised"]
    hosts = {key: (host["name"], host["attempts"], host["verdict"]) for key, host in status["hosts"].items()}
    assert hosts == {"2001:db8:0:a::/64": ("beside relay", 12, "compromised"), RELAY.ipv4: ("relay", 12, "clean")}
    exchange = open_exchange(site.exchange_url, site.exchange_key, read_only=True)
    with closing(exchange):
        [bulletin] = exchange.bulletins()
        assert bulletin.verdicts == {}



INVENTORY = "from dataclasses import replace; import egressguard.core.inventory as i; f = i.inventory_of; i.inventory_of = lambda s: "
TOGETHER = {
    "holds against a sender what others send in its name": INVENTORY + "replace(f(s), unjudged=s.canary_keys())",
    "tells relays of senders": INVENTORY + "replace(f(s), senders=frozenset())",
    "calls a neighbour by the sender's name": (
        "from egressguard.core.settings import Settings as S; from egressguard.core.hosts import hosts_of\n"
        "S.names = lambda self: {k: m.name for _, m in self.machines() for k in hosts_of(m.addresses)}"),
}


@pytest.mark.parametrize("daemon", TOGETHER)
def test_mutant_a_daemon_that(site: Deployment, daemon: str) -> None:
    site.change = TOGETHER[daemon]
    with pytest.raises(AssertionError):
        test_what_a_neighbour_in_the_senders_64_tries_is_his_own(site)
