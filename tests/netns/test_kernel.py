"""What is read from the kernel is what is in it: the fast reader against the plain one, and against nft."""

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard.core.ruleset import (
    ATTEMPT_MACS,
    CONFIGURED,
    DESTINATIONS,
    FLOODS,
    INVENTORY,
    LEASED,
    REDIRECT,
    STRANGERS,
    TRANSIT,
    TRANSIT_IF,
    Fields,
)
from egressguard.core.shards import spread
from egressguard.kernel import Netfilter, nft
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.sets import StandingTexts, Texts, host_key, read_counts, read_elements
from lab.namespaces import Namespace
from lab.network import SOMEBODY4, SOMEBODY6, WEB1, WEB2, World, answers

RULES = (Path(__file__).parents[2] / "rules/egressguard.nft").read_text()
COUNTED = {**INVENTORY, **STRANGERS, **DESTINATIONS}


def add(name: str, *elements: str) -> str:
    return f"add element inet egressguard {name} {{ {', '.join(elements)} }}\n"


def known(*hosts: str) -> str:
    return "".join(add(name, *(a for a, in shard)) for name, shard in spread(map(ip_address, hosts)).items() if shard)


ELEMENTS = "".join([
    known(*(f"198.51.100.{n}" for n in range(1, 250)), *(f"2001:db8:0:{n:x}::" for n in range(1, 1500))),
    add("stranger4", "192.0.2.7", "192.0.2.8 timeout 5m", "192.0.2.9 counter packets 7 bytes 420"),
    add("stranger6", *(f"2001:db8:1:{n:x}:: timeout {n}m" for n in range(1, 40))),
    add("fanout4", *(f"198.51.100.7 . 203.0.113.{n} counter packets {n} bytes 1" for n in range(256))),
    add("fanout6", '2001:db8:0:7:: . 2001:db8:ffff::1 comment "somebody\'s"', "2001:db8:0:7:: . 2001:db8:ffff::2"),
])


def plainly(netlink: Netlink, name: str, fields: Fields) -> dict[object, int]:
    """Element by element, in the words of the fast reader."""
    return {(host_key(e[0]), e[1]) if len(e) > 1 else host_key(e[0]): n
            for e, n in read_elements(netlink, name, fields).items()}


@pytest.fixture
def filled(root: None) -> Iterator[Namespace]:
    with Namespace("kernel") as namespace:
        namespace.call(nft.apply, RULES + ELEMENTS, "filling the sets")
        yield namespace


@pytest.mark.parametrize("name", COUNTED)
def test_fast_and_plain_reading_agree(filled: Namespace, name: str) -> None:
    def both() -> tuple[object, object]:
        kernel = Netfilter()
        netlink = kernel._netlink
        result = read_counts(netlink, name, COUNTED[name], Texts()), plainly(netlink, name, COUNTED[name])
        kernel.close()
        return result

    fast, plain = filled.call(both)
    assert fast == plain
    listed = json.loads(filled.run(["nft", "-j", "list", "set", "inet", "egressguard", name]).stdout)
    elements = [item["set"].get("elem", []) for item in listed["nftables"] if "set" in item]
    assert len(plain) == len(elements[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["known4_00", "fanout6"])
def test_an_empty_set_is_empty(root: None, name: str) -> None:
    def both() -> tuple[object, object]:
        nft.apply(RULES, "loading")
        kernel = Netfilter()
        netlink = kernel._netlink
        result = read_counts(netlink, name, COUNTED[name], Texts()), read_elements(netlink, name, COUNTED[name])
        kernel.close()
        return result

    with Namespace("kernel") as namespace:
        assert namespace.call(both) == ({}, {})


def test_a_changed_inventory_is_read_as_it_is_now(root: None) -> None:
    many = ", ".join(f"2001:db8:0:{n:x}::" for n in range(0x1000, 0x1400))

    def readings() -> None:
        nft.apply(RULES + f"add element inet egressguard known6_00 {{ {many} }}\n", "filling")
        kernel, hosts = Netfilter(), StandingTexts()
        for change in ("", "delete element inet egressguard known6_00 { 2001:db8:0:1003:: }\n",
                       "add element inet egressguard known6_00 { 2001:db8:0:2000:: }\n",
                       "flush set inet egressguard known6_00\n"):
            nft.apply(change, "changing")
            fields = COUNTED["known6_00"]
            expected = plainly(kernel._netlink, "known6_00", fields)
            assert read_counts(kernel._netlink, "known6_00", fields, hosts) == expected
        kernel.close()

    with Namespace("kernel") as namespace:
        namespace.call(readings)


def test_every_set_of_the_rules_is_known_to_the_code(filled: Namespace) -> None:
    listed = json.loads(filled.run(["nft", "-j", "-t", "list", "table", "inet", "egressguard"]).stdout)
    names = {item["set"]["name"] for item in listed["nftables"] if "set" in item}
    known = {*CONFIGURED, *LEASED, *COUNTED, *ATTEMPT_MACS, "sender_mac4", "sender_mac6",
             "counted_stranger4", "counted_stranger6", *FLOODS,
             *TRANSIT, *TRANSIT_IF}
    assert names == known - {*REDIRECT, "own_cgroup"}, "those are of files that are loaded where they are configured"


def test_counts_of_real_packets_are_read(fresh_world: World) -> None:
    world = fresh_world
    world.router.call(nft.apply, RULES + add("inside_if", '"web"') + known(WEB2.ipv4), "loading")
    for place in (WEB1, WEB2):
        for destination in (SOMEBODY4, SOMEBODY6):
            assert world.namespace(place).call(answers, destination, 25)

    def sample() -> tuple[dict[str, int], dict[str, int]]:
        kernel = Netfilter()
        found = kernel.sample(0.0)
        kernel.close()
        return {str(h): n for h, n in found.inventory.items()}, {str(h): n for h, n in found.strangers.items()}

    assert world.router.call(sample) == (
        {WEB2.ipv4: 1}, {WEB1.ipv4: 1, "2001:db8:0:11::/64": 1, "2001:db8:0:12::/64": 1})
