"""Configuration becomes elements, and a difference becomes one transaction."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.plan import diff, transaction
from egressguard.core.policy import desired
from egressguard.core.ruleset import CONFIGURED, Sets
from egressguard.core.settings import Inside, Machine, Sender, Settings
from egressguard.core.shards import shard_of

SETTINGS = Settings(
    inside=(Inside(("dmz", "dmz2"), (ip_network("192.0.2.0/26"), ip_network("2001:db8:0:a::/64"))),),
    sender=(Sender("relay", (ip_address("192.0.2.10"), ip_address("2001:db8:0:a::2"))),),
    host=(Machine("web1", (ip_address("192.0.2.11"),)),))
EMPTY: Sets = {name: frozenset() for name in CONFIGURED}


def test_a_sender_is_an_address_behind_each_of_its_interfaces() -> None:
    want = desired(SETTINGS)
    assert want["allow4"] == {("dmz", "192.0.2.10"), ("dmz2", "192.0.2.10")}
    assert want["allow6"] == {("dmz", "2001:db8:0:a::2"), ("dmz2", "2001:db8:0:a::2")}


def test_an_ipv6_host_is_known_by_its_prefix() -> None:
    machine = Machine("web", (ip_address("2001:db8:0:a:1:2:3:4"),))
    assert desired(Settings(inside=SETTINGS.inside, host=(machine,)))[shard_of(ip_address("2001:db8:0:a::2"))] == {("2001:db8:0:a::",)}


def test_observe_mode_is_both_families() -> None:
    assert desired(SETTINGS)["observed_family"] == frozenset()
    assert desired(Settings(inside=SETTINGS.inside, mode="observe"))["observed_family"] == {("ipv4",), ("ipv6",)}


def test_what_is_right_is_not_touched() -> None:
    assert diff(desired(SETTINGS), desired(SETTINGS)) == ()
    assert transaction(()) == ""


def test_a_transaction_is_readable_and_ends_with_what_closes() -> None:
    assert transaction(diff(EMPTY, desired(SETTINGS))).splitlines() == [
        "add element inet egressguard smtp_ports { 25 }",
        "add element inet egressguard tunnel_protocols { 108, 115, 132, 135, 137, 139, 140, 143, 4, 41, 47, 50, 51, 94, 97, 98 }",
        "add element inet egressguard blocked_ports { 25 }",
        "add element inet egressguard known4_01 { 192.0.2.11 }",
        'add element inet egressguard allow4 { "dmz" . 192.0.2.10, "dmz2" . 192.0.2.10 }',
        'add element inet egressguard allow6 { "dmz" . 2001:db8:0:a::2, "dmz2" . 2001:db8:0:a::2 }',
        'add element inet egressguard inside_if { "dmz", "dmz2" }',
        'add element inet egressguard shared_if { "dmz", "dmz2" }',
    ]


elements = st.frozensets(st.integers(0, 30).map(lambda n: (str(n),)))
sets = st.fixed_dictionaries(dict.fromkeys(CONFIGURED, elements))


@given(sets, sets)
def test_a_difference_applied_gives_what_was_wanted(have: Sets, want: Sets) -> None:
    result = dict(have)
    for change in diff(have, want):
        assert not set(change.added) & set(change.removed)
        result[change.set_name] = result[change.set_name] - set(change.removed) | set(change.added)
    assert result == want
