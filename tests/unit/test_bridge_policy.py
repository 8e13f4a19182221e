"""The policy said by the ports of bridges, and what is wrong in a configuration of bridges, relays and last lines."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from egressguard.core.bridge_policy import desired, leases
from egressguard.core.hosts import Host
from egressguard.core.mistakes import mistakes
from egressguard.core.orders import Order
from egressguard.core.path_settings import Bridge, LastLine, Redirect, Sinkhole
from egressguard.core.policy import redirect_sets
from egressguard.core.settings import Group, Inside, Own, Sender, Settings
from egressguard.core.tables import BRIDGE, LAST_LINE, ROUTER
from egressguard.core.wanted import Here, elements, kept, tables

NETWORKS = (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:10::/60"))
MAIL = Sender("mail", (ip_address("198.51.100.11"), ip_address("2001:db8:0:11::2")))
SITE = Settings(bridge=(Bridge("br0", ("vnet*", "tap0"), NETWORKS),), sender=(MAIL,))
PORTS = {"br0": frozenset({"vnet1", "vnet2", "eth0"}), "docker0": frozenset({"veth1"})}


def test_ports_are_those_that_exist_and_those_of_other_bridges_are_left_alone() -> None:
    sets = desired(SITE, PORTS)
    assert sets["inside_if"] == {("vnet1",), ("vnet2",)}
    assert sets["other_port"] == {("veth1",)}
    assert sets["home4"] == {("vnet1", "198.51.100.0/24"), ("vnet2", "198.51.100.0/24")}
    assert sets["allow6"] == {("vnet1", "2001:db8:0:11::2"), ("vnet2", "2001:db8:0:11::2")}
    assert set(sets) == set(BRIDGE.configured)


def test_a_sender_may_be_tied_to_its_port() -> None:
    tied = Sender("mail", MAIL.addresses, ports=("vnet1",))
    assert desired(Settings(bridge=SITE.bridge, sender=(tied,)), PORTS)["allow4"] == {("vnet1", "198.51.100.11")}


def test_orders_name_every_port_of_a_host() -> None:
    standing = [Order("exception", "root", "x", 60.0, Host("198.51.100.12")),
                Order("exception", "root", "x", 60.0, Host("2001:db8:0:12::/64"), "2001:db8:ffff::1"),
                Order("quarantine", "root", "x", 60.0, Host("198.51.100.13")), Order("open", "root", "x", 9.0)]
    assert leases(standing, SITE, PORTS) == {
        "exception4": {("vnet1", "198.51.100.12"): 60.0, ("vnet2", "198.51.100.12"): 60.0},
        "exception6": {}, "exception_to4": {},
        "exception_to6": {("vnet1", "2001:db8:0:12::", "2001:db8:ffff::1"): 60.0,
                          ("vnet2", "2001:db8:0:12::", "2001:db8:ffff::1"): 60.0},
        "quarantine4": {("198.51.100.13",): 60.0}, "quarantine6": {}, "opened_family": {("ip",): 9.0, ("ip6",): 9.0}}


def test_tables_are_those_that_are_asked_for_and_each_knows_all_its_sets() -> None:
    full = Settings(bridge=SITE.bridge, last_line=LastLine(("wan",)))
    assert tables(Settings()) == (ROUTER,)
    assert tables(full) == (ROUTER, BRIDGE, LAST_LINE)
    assert kept(full) == ("inet", "bridge")
    for table in tables(full):
        assert set(elements(table, Here(full, ports=PORTS))) == set(table.configured)


INSIDE = Inside(("dmz",), (ip_network("192.0.2.0/26"),))
RELAY = Sender("relay", (ip_address("192.0.2.10"),))


@pytest.mark.parametrize(("settings", "words"), [
    (Settings(), "inside: is missing: name the interfaces and networks that hosts live behind, or a [[bridge]]"),
    (Settings(bridge=(Bridge("br 0", ("vnet1",), NETWORKS),)), "bridge.0.name: 'br 0' is no interface name"),
    (Settings(bridge=(Bridge("br0", ("vn et*",), NETWORKS),)), "bridge.0.ports: 'vn et' is no interface name"),
    (Settings(bridge=(Bridge("br0", ("*",), NETWORKS),)), "bridge.0.ports: '*' is no interface name"),
    (Settings(bridge=(Bridge("br0", ("vnet1",), ()),)), "bridge.0.networks: is empty"),
    (Settings(bridge=(*SITE.bridge, *SITE.bridge)), "bridge.1.ports: are those of bridge.0 too"),
    (Settings(bridge=SITE.bridge, sender=(Sender("m", MAIL.addresses, ports=("eth9",)),)), "sender.0.ports: eth9 is no machine's port"),
    (Settings((INSIDE,), last_line=LastLine(("dmz",))), "last_line.interfaces: dmz is inside"),
    (Settings((INSIDE,), last_line=LastLine(('"x',))), "last_line.interfaces: '\"x' is no interface name"),
    (Settings((INSIDE,), permitted_mark=3), "permitted_mark: 0x3 is not one bit"),
    (Settings((INSIDE,), answer="redirect"), "answer: is \"redirect\", and redirect.relays names no relay"),
    (Settings((INSIDE,), group=(Group("g", INSIDE.networks, answer="redirect"),)), "group.0.answer: is \"redirect\""),
    (Settings((INSIDE,), redirect=Redirect((ip_address("192.0.2.10"),))), "redirect.relays: 192.0.2.10 is no [[sender]]'s"),
    (Settings((INSIDE,), sender=(RELAY, Sender("o", (ip_address("192.0.2.11"),))),
              redirect=Redirect((ip_address("192.0.2.10"), ip_address("192.0.2.11")))), "redirect.relays: names two addresses"),
    (Settings((INSIDE,), sinkhole=Sinkhole(True, 25)), "sinkhole.port: 25 is out of range"),
    (Settings((INSIDE,), own=Own(True, cgroups=("../x",))), "own.cgroups: '../x' is no control group"),
    (Settings((INSIDE,), own=Own(True, cgroups=('a"; flush ruleset',))), "is no control group"),
])
def test_what_is_wrong_is_said(settings: Settings, words: str) -> None:
    assert words in "\n".join(f"{mistake.key}: {mistake.text}" for mistake in mistakes(settings))


def test_what_is_right_is_not() -> None:
    good = Settings((INSIDE,), sender=(RELAY,), answer="redirect", redirect=Redirect(RELAY.addresses), sinkhole=Sinkhole(True),
                    last_line=LastLine(("wan",)), bridge=SITE.bridge, own=Own(True, cgroups=("system.slice/postfix@-.service",)))
    assert list(map(str, mistakes(good))) == []


def test_a_relay_that_nobody_is_led_to_asks_for_no_set_that_is_not_loaded() -> None:
    settings = Settings((INSIDE,), sender=(RELAY,), redirect=Redirect(RELAY.addresses))
    assert not any(redirect_sets(settings).values())
    assert redirect_sets(replace(settings, answer="redirect"))["relay_if"] == {("dmz",)}
