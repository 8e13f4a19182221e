"""The rule stands on every path: containers behind a bridge and masquerade, and an uplink that nobody named."""

import errno
from collections.abc import Iterator

import pytest

from lab.deployment import Deployment
from lab.namespaces import Namespace
from lab.network import SOMEBODY4, SOMEBODY6, WEB2
from lab.sink import Sink
from lab.sniffer import Sniffer
from tests.netns.test_firewall import both_families, outcome

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
ALICE, BOB = ("198.51.100.130", "2001:db8:0:c0::2"), ("198.51.100.131", "2001:db8:0:c1::2")


@pytest.fixture
def sink(site: Deployment) -> Iterator[Sink]:
    with Sink(site.world.outside) as listening:
        yield listening


@pytest.fixture
def containers(site: Deployment) -> Iterator[list[Namespace]]:
    """As a container engine does it: a bridge on the router, a veth into each container, masquerade."""
    router = site.world.router
    router.ip("link add docker0 type bridge forward_delay 0 mcast_snooping 0", "link set docker0 up",
              "address add 198.51.100.129/28 dev docker0", "address add 2001:db8:0:c0::1/64 dev docker0 nodad",
              "address add 2001:db8:0:c1::1/64 dev docker0 nodad")
    router.run(["nft", "-f", "-"], stdin="""
        table inet engine {
            chain post { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
        }""")
    with Namespace("alice") as alice, Namespace("bob") as bob:
        for number, (container, (four, six)) in enumerate([(alice, ALICE), (bob, BOB)]):
            container.link("eth0", router, f"vethc{number}", f"00:00:5e:00:53:a{number}")
            router.ip(f"link set vethc{number} master docker0")
            container.ip(f"address add {four}/28 dev eth0", f"address add {six}/64 dev eth0 nodad",
                         "route add default via 198.51.100.129", f"route add ::/0 via {six[:-1]}1")
        yield [alice, bob]


def stranger(site: Deployment, key: str) -> int:
    return int(site.status()[1]["hosts"].get(key, {"attempts": 0})["attempts"])


def beside(site: Deployment, interface: str) -> dict[str, int]:
    """Who tried from an interface that is not inside, and `in all`."""
    found = site.status()[1]["transit"].get(interface, {"attempts": 0, "hosts": {}})
    return {"in all": found["attempts"], **found["hosts"]}


@both_families
@pytest.mark.parametrize("named", [False, True])
def test_containers_are_forwarded_so_they_are_blocked_and_counted_one_by_one(
        site: Deployment, sink: Sink, containers: list[Namespace], family: int, named: bool) -> None:
    if named:
        site.amend("", '[[inside]]\ninterfaces = ["docker0"]\nnetworks = ["2001:db8:0:c0::/64", "2001:db8:0:c1::/64"]')
    site.start_router()
    alice, bob = containers
    with Sniffer(site.world.outside, "eth0") as outside:
        assert alice.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
        assert bob.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
        assert bob.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
        assert outside.stop() == []
    keys = (ALICE[0], BOB[0]) if family == 4 else ("2001:db8:0:c0::/64", "2001:db8:0:c1::/64")
    assert [stranger(site, key) for key in keys] == ([1, 2] if named else [0, 0])
    assert beside(site, "docker0") == ({"in all": 0} if named else {"in all": 3, keys[0]: 1, keys[1]: 2})


@both_families
def test_a_container_reaches_everything_else(site: Deployment, containers: list[Namespace], family: int) -> None:
    site.start_router()
    with Sink(site.world.outside, port=80):
        assert containers[0].call(outcome, SOMEBODY[family], 80) == 0


@both_families
@pytest.mark.parametrize("before", [True, False])
def test_a_new_uplink_that_nobody_named_is_denied_by_default(
        site: Deployment, sink: Sink, family: int, before: bool) -> None:
    """Made while the rules stand, or before they come: an interface that is not inside is outside."""
    if not before:
        site.start_router()
    router, outside = site.world.router, site.world.outside
    outside.link("eth1", router, "lte0", "00:00:5e:00:53:a9")
    router.ip("address add 203.0.113.120/31 dev lte0", "address add 2001:db8:fffd::1/64 dev lte0 nodad",
              "route replace default via 203.0.113.121", "route del ::/0", "route add ::/0 via 2001:db8:fffd::2")
    outside.ip("address add 203.0.113.121/31 dev eth1", "address add 2001:db8:fffd::2/64 dev eth1 nodad",
               "route add 198.51.100.0/24 via 203.0.113.120", "route add 2001:db8:0:10::/60 via 2001:db8:fffd::1",
               "route add 192.0.2.0/26 via 203.0.113.120", "route add 2001:db8:0:8::/61 via 2001:db8:fffd::1")
    if before:
        site.start_router()
    with Sniffer(outside, "eth1") as wire:
        assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
        assert wire.packets() == []
        assert stranger(site, WEB2.ipv4) == 1
        assert site.world.relay.call(outcome, SOMEBODY[family]) == 0, "a sender may leave by it"
        assert wire.stop() != []
    assert site.status()[0] == 0
    done = site.egressguard("doctor")
    assert (done.returncode, "lte0 is an uplink" in done.stdout) == (0, True)
