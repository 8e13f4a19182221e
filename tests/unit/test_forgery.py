"""Whose MAC it was: the configuration's word, then the neighbour table's, then nobody's."""

from ipaddress import ip_address, ip_network

import pytest

from egressguard.core.forgery import MANY, Crowd, Forgery, crowds, forgeries
from egressguard.core.settings import Inside, Machine, Settings

OWN, OTHER, THIRD = "00:00:5e:00:53:0c", "00:00:5e:00:53:99", "00:00:5e:00:53:98"
INSIDE = (Inside(("web",), (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:12::/64"))),)
ADDRESSES = (ip_address("198.51.100.12"), ip_address("2001:db8:0:12::2"))
PLAIN = Settings(inside=INSIDE, host=(Machine("web2", ADDRESSES),))
TIED = Settings(inside=INSIDE, host=(Machine("web2", ADDRESSES, OWN),))


def found(settings: Settings, neighbours: dict[str, str], **macs: frozenset[str] | set[str]) -> list[Forgery]:
    seen = {{"v4": "198.51.100.12", "v6": "2001:db8:0:12::2", "v6b": "2001:db8:0:12::3"}[k]: frozenset(m) for k, m in macs.items()}
    return forgeries([seen], {address: frozenset({mac}) for address, mac in neighbours.items()}, settings)


@pytest.mark.parametrize("address", ["198.51.100.12", "2001:db8:0:12::2"])
def test_another_mac_than_the_neighbour_tables_is_a_forgery(address: str) -> None:
    name = "v6" if ":" in address else "v4"
    [forgery] = found(PLAIN, {address: OWN}, **{name: {OTHER}})
    assert forgery == Forgery(address, frozenset({OTHER}), frozenset({OWN}))
    assert found(PLAIN, {address: OWN}, **{name: {OWN}}) == []
    assert found(PLAIN, {}, **{name: {OTHER}}) == [], "without the table nobody knows"


def test_the_configured_mac_counts_more_than_the_table() -> None:
    [forgery] = found(TIED, {"198.51.100.12": OTHER}, v4={OTHER, OWN})
    assert (forgery.macs, forgery.owner, forgery.configured) == (frozenset({OTHER}), frozenset({OWN}), True)
    assert forgery.of("attempts") == ("attempts in the name of 198.51.100.12 came from MAC 00:00:5e:00:53:99; "
                                      "the configuration has 00:00:5e:00:53:0c")


def test_where_nobody_knows_two_macs_are_suspicious_and_one_is_not() -> None:
    [forgery] = found(PLAIN, {}, v4={OTHER, THIRD}, v6={OTHER})
    assert (forgery.address, forgery.macs, forgery.owner) == ("198.51.100.12", frozenset({OTHER, THIRD}), frozenset())


def test_the_machines_of_one_64_have_a_mac_each() -> None:
    assert found(PLAIN, {"2001:db8:0:12::2": OWN}, v6={OWN}, v6b={THIRD}) == []


def test_tables_are_joined() -> None:
    seen = [{"198.51.100.12": frozenset({OTHER})}, {"198.51.100.12": frozenset({THIRD})}]
    assert [f.macs for f in forgeries(seen, {}, PLAIN)] == [{OTHER, THIRD}]


def test_one_mac_behind_many_hosts_is_a_crowd_and_a_64_or_a_machine_is_one_host() -> None:
    seen = {f"198.51.100.{n}": frozenset({OTHER}) for n in range(100, 100 + MANY)}
    own_64 = {f"2001:db8:0:12::{n:x}": frozenset({OTHER}) for n in range(99)}
    assert crowds([seen], PLAIN) == []
    assert crowds([own_64], PLAIN) == []
    assert crowds([seen, {"198.51.100.99": frozenset({OWN})}], PLAIN) == []
    assert crowds([seen, {"198.51.100.99": frozenset({OTHER, OWN})}], PLAIN) == [Crowd(OTHER, MANY + 1)]
    named = Settings(inside=INSIDE, host=(Machine("shared", tuple(map(ip_address, seen))),))
    assert crowds([seen, {"198.51.100.99": frozenset({OTHER})}], named) == []
