"""Which connections end with a permission: refused ones, and no others."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from egressguard.core.connections import Connection, refused, tightens
from egressguard.core.plan import Change
from egressguard.core.ruleset import Leases
from egressguard.core.settings import Group, Inside, Sender, Settings

SETTINGS = Settings(
    inside=(Inside(("dmz",), (ip_network("192.0.2.0/26"),)), Inside(("web",), (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:11::/64")))),
    sender=(Sender("relay", (ip_address("192.0.2.10"),)),),
    group=(Group("customers", (ip_network("198.51.100.128/25"),), "observe", also_block=(587,)),))
SOMEBODY = "203.0.113.1"
QUARANTINED: Leases = {"quarantine4": {("198.51.100.12",): 9.0}, "quarantine6": {("2001:db8:0:11::",): 9.0}}


@pytest.mark.parametrize(("source", "destination", "port", "leases", "wanted"), [
    ("198.51.100.12", SOMEBODY, 25, {}, True),
    ("2001:db8:0:11::2", "2001:db8:ffff::1", 25, {}, True),
    ("192.0.2.10", SOMEBODY, 25, {}, False),                                     # a sender
    ("203.0.113.9", "192.0.2.10", 25, {}, False),                               # somebody's mail to us
    ("198.51.100.12", "192.0.2.10", 25, {}, False),                             # to the relay
    ("198.51.100.12", "192.0.2.10", 25, QUARANTINED, True),                     # not even to the relay
    ("2001:db8:0:11::9", "2001:db8:0:11::8", 25, QUARANTINED, True),
    ("192.0.2.10", SOMEBODY, 25, {"quarantine4": {("192.0.2.10",): 9.0}}, False),  # a sender is never cut
    ("198.51.100.12", SOMEBODY, 587, {}, False),
    ("198.51.100.200", SOMEBODY, 587, {}, False),                               # its group observes
    ("198.51.100.200", SOMEBODY, 25, {}, False),
    ("198.51.100.12", SOMEBODY, 25, {"exception4": {("web", "198.51.100.12"): 9.0}}, False),
    ("198.51.100.12", SOMEBODY, 25, {"exception_to4": {("web", "198.51.100.12", SOMEBODY): 9.0}}, False),
    ("198.51.100.12", SOMEBODY, 25, {"exception_to4": {("web", "198.51.100.12", "203.0.113.2"): 9.0}}, True),
    ("198.51.100.12", SOMEBODY, 25, {"opened_family": {("ipv4",): 9.0}}, False),
])
def test_who_is_refused(source: str, destination: str, port: int, leases: Leases, wanted: bool) -> None:
    assert refused(Connection(source, destination, port), SETTINGS, leases) is wanted


def test_in_mode_observe_nobody_is_but_a_group_that_enforces() -> None:
    group = replace(SETTINGS.group[0], mode="enforce")
    settings = replace(SETTINGS, mode="observe", group=(group,))
    assert not refused(Connection("198.51.100.12", SOMEBODY, 25), settings, {})
    assert refused(Connection("198.51.100.200", SOMEBODY, 25), settings, {})
    assert refused(Connection("198.51.100.200", SOMEBODY, 587), settings, {})


@pytest.mark.parametrize(("change", "wanted"), [
    (Change("allow4", removed=(("dmz", "192.0.2.10"),)), True), (Change("allow4", added=(("dmz", "192.0.2.10"),)), False),
    (Change("quarantine4", added=(("198.51.100.12",),)), True), (Change("exception4", removed=(("web", "198.51.100.12"),)), True),
    (Change("observed_family", removed=(("ipv4",),)), True), (Change("blocked_ports", added=(("587",),)), True),
    (Change("known4", added=(("198.51.100.12",),)), False), (Change("opened_family", removed=(("ipv4",),)), True)])
def test_what_takes_a_permission_away(change: Change, wanted: bool) -> None:
    assert tightens((change,)) is wanted
