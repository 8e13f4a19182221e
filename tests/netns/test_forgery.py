"""A neighbour that writes another machine's address into its packets is seen as such, also when that machine has never
tried anything; it brings nobody into quarantine, and the machines of one /64 are not taken for forgers of each other."""

import json

import pytest

from lab.deployment import Deployment
from lab.firewall import RULES
from lab.namespaces import wait_until
from lab.network import RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB2
from lab.syns import SynSource, Wire
from tests.netns.test_firewall import both_families, say
from tests.netns.test_origin import use_rules

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
MANY = {4: "203.0.113.128/27", 6: "2001:db8:ffff::100/123"}
STRANGERS = {4: "198.51.100.64/26", 6: "2001:db8:1::/58/64"}
FORGER = "00:00:5e:00:53:99"


def forge(site: Deployment, family: int, mac: str = FORGER, source: str = "", destination: str = "", count: int = 1) -> None:
    """SYNs from web1's wire, in the name of web2 unless another `source` is given."""
    SynSource(site.world.web1, Wire("eth0", mac, ROUTER_MAC["web"]), sources=[source or WEB2.addresses[family == 6]],
              destinations=[destination or SOMEBODY[family]], count=count).wait()


def texts(site: Deployment) -> str:
    return " ".join(found["text"] for found in site.status()[1]["findings"])


def host(site: Deployment, name: str = WEB2.ipv4) -> dict[str, object]:
    found: dict[str, dict[str, object]] = json.loads(say(site, "hosts", "--json"))
    return found[name]


@both_families
def test_a_silent_machine_that_a_neighbour_frames_is_named_with_the_forgers_mac(site: Deployment, family: int) -> None:
    site.start_router()
    forge(site, family)
    address = WEB2.addresses[family == 6]
    assert site.status()[0] == 2
    assert f"attempts in the name of {address} came from MAC {FORGER}; the neighbour table has {WEB2.mac}" in texts(site)
    assert host(site)["forged_by"] == [FORGER]
    explained = " ".join(say(site, "explain", "web2").split())
    assert f"came from MAC {FORGER}" in explained
    assert "a neighbour may be framing it" in explained
    assert json.loads(say(site, "explain", "web2", "--json"))["forged_by"] == [FORGER]


@both_families
def test_what_a_machine_does_itself_is_no_forgery(site: Deployment, family: int) -> None:
    site.start_router()
    forge(site, family, WEB2.mac)
    assert "in the name of" not in texts(site)
    assert host(site)["forged_by"] == []


@both_families
def test_the_configured_mac_speaks_louder_than_a_poisoned_table(site: Deployment, family: int) -> None:
    site.amend('name = "web2"', f'name = "web2"\nmac = "{WEB2.mac}"')
    site.start_router()
    site.world.router.ip(f"neighbour replace {WEB2.addresses[family == 6]} lladdr {FORGER} dev web")
    forge(site, family)
    assert f"came from MAC {FORGER}; the configuration has {WEB2.mac}" in texts(site)


@both_families
def test_a_forged_host_is_judged_but_never_proposed_for_a_hold_nor_quarantined(site: Deployment, family: int) -> None:
    site.start_router()
    forge(site, family, destination=MANY[family], count=32)
    wait_until(lambda: host(site)["verdict"] == "compromised", "the verdict")
    assert (host(site)["hold_proposed"], host(site)["forged_by"]) == (False, [FORGER])
    status = site.status()[1]
    assert status["orders"] == []
    assert status["totals"]["quarantined"] == 0


@both_families
def test_a_sender_in_whose_name_a_neighbour_sends_is_told(site: Deployment, family: int) -> None:
    site.start_router()
    SynSource(site.world.mailserver, Wire("eth0", FORGER, ROUTER_MAC["dmz"]), sources=[RELAY.addresses[family == 6]],
              destinations=[SOMEBODY[family]], count=1).wait()
    assert (f"connections in the name of sender {RELAY.addresses[family == 6]} came from MAC {FORGER}; "
            f"the neighbour table has {RELAY.mac}") in texts(site)


def test_the_machines_of_one_64_are_no_forgers_of_each_other(site: Deployment) -> None:
    site.start_router()
    for number, mac in ((2, WEB2.mac), (3, "00:00:5e:00:53:a3"), (4, "00:00:5e:00:53:a4")):
        forge(site, 6, mac, source=f"2001:db8:0:12::{number}")
    assert "MAC" not in texts(site)
    assert host(site)["attempts"] == 3
    assert host(site)["macs"] == sorted([WEB2.mac, "00:00:5e:00:53:a3", "00:00:5e:00:53:a4"])
    forge(site, 6, FORGER, source="2001:db8:0:12::3")
    assert "attempts in the name of 2001:db8:0:12::3 came from 2 MAC addresses" in texts(site)


def test_a_ruleset_that_keeps_the_macs_of_a_whole_64_frames_its_machines(site: Deployment) -> None:
    text = RULES.read_text("utf-8")
    mutant = text.replace("update @attempt_mac6 { ip6 saddr . ether saddr }", "update @attempt_mac6 { ip6 saddr & ffff:ffff:ffff:ffff:: . ether saddr }")
    assert mutant != text
    (site.folder / "egressguard.nft").write_text(mutant)
    site.rules = site.folder
    site.write_router_config("enforce")
    with pytest.raises(AssertionError):
        test_the_machines_of_one_64_are_no_forgers_of_each_other(site)


def who_sends_in_a_hosts_name_is_told_in_a_flood_of_strangers(site: Deployment, family: int, text: str) -> None:
    use_rules(site, text.replace("ether_addr; size 8192", "ether_addr; size 32"))
    site.world.router.ip("route add 2001:db8:1::/48 dev web")
    site.start_router()
    forge(site, family, "00:00:5e:00:53:98", source=STRANGERS[family], count=64)
    forge(site, family)
    assert f"attempts in the name of {WEB2.addresses[family == 6]} came from MAC {FORGER}" in texts(site)


@both_families
def test_strangers_cannot_hide_who_sends_in_a_hosts_name(site: Deployment, family: int) -> None:
    who_sends_in_a_hosts_name_is_told_in_a_flood_of_strangers(site, family, RULES.read_text("utf-8"))


@both_families
def test_a_ruleset_that_keeps_all_macs_in_one_set_hides_him(site: Deployment, family: int) -> None:
    text = RULES.read_text("utf-8")
    assert "jump stranger_mac" in text
    with pytest.raises(AssertionError, match="in the name of"):
        who_sends_in_a_hosts_name_is_told_in_a_flood_of_strangers(site, family, text.replace("jump stranger_mac", "jump attempt_mac"))


def test_a_machine_that_takes_turns_at_many_addresses_is_named_by_its_mac_unless_it_is_a_router(site: Deployment) -> None:
    site.start_router()
    forge(site, 4, source="198.51.100.64/27", destination=MANY[4], count=64)
    assert site.status()[0] == 2
    assert f"attempts in the name of 32 hosts came from one MAC, {FORGER}" in texts(site)
    site.world.router.ip(f"neighbour replace 198.51.100.9 lladdr {FORGER} dev web", "route add 198.51.100.64/27 via 198.51.100.9")
    assert "came from one MAC" not in texts(site)
