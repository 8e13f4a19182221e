"""What `egressguard init` makes of a machine: who is inside, who may send, and why."""

import re
import subprocess
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from egressguard.config import read_site
from egressguard.core.errors import EgressguardError
from egressguard.core.surroundings import Link
from egressguard.core.survey import Candidate, Flow, Survey, candidates, configuration, named, places

ROOT = Path(__file__).parents[2]
OUTSIDE = ip_address("203.0.113.130")
RELAY, RELAY6 = ip_address("192.0.2.10"), ip_address("2001:db8:0:a::2")
WEB = ip_address("198.51.100.11")


def link(name: str, *addresses: str, default: bool = False, up: bool = True, master: str = "") -> Link:
    return Link(name=name, kind="", up=up, master=master, default_route=frozenset({4} if default else ()), xdp=False,
                addresses=addresses, filtered=False)


LINKS = (link("lo", "127.0.0.1/8"), link("wan", "203.0.113.1/25", default=True),
         link("dmz", "192.0.2.1/26", "2001:db8:0:a::1/64"), link("web", "198.51.100.1/24"))


def roles(survey: Survey, **named: frozenset[str]) -> dict[str, bool]:
    return {place.interface: place.inside for place in places(survey, **named)}


def found(*flows: Flow, **more: Any) -> list[Candidate]:
    survey = Survey(LINKS, flows=flows, **more)
    return candidates(survey, places(survey))


def test_what_leads_to_the_default_route_is_outside_and_what_has_a_network_is_inside() -> None:
    assert roles(Survey(LINKS)) == {"wan": False, "dmz": True, "web": True}


def test_a_network_as_wide_as_the_internet_is_no_network_of_an_interface_that_is_named_inside() -> None:
    routes = (("wan", ip_network("0.0.0.0/1")), ("wan", ip_network("2000::/3")), ("wan", ip_network("fd00::/8")))
    wan = next(p for p in places(Survey(LINKS, routes), inside=frozenset({"wan"})) if p.interface == "wan")
    assert list(map(str, wan.networks)) == ["203.0.113.0/25", "fd00::/8"]


def test_an_operator_knows_better() -> None:
    assert roles(Survey(LINKS), inside=frozenset({"wan"}), outside=frozenset({"web"})) == {
        "wan": True, "dmz": True, "web": False}


@pytest.mark.parametrize("odd", [link("eth9", up=False), link("eth9"), link("eth9", "192.0.2.200/26", up=False)])
def test_an_interface_without_hosts_is_outside(odd: Link) -> None:
    assert roles(Survey((*LINKS, odd)))["eth9"] is False


def test_a_port_of_a_bridge_is_not_asked_about() -> None:
    assert "tap0" not in roles(Survey((*LINKS, link("tap0", master="br0"))))


def test_networks_behind_another_router_live_behind_its_interface() -> None:
    survey = Survey(LINKS, routes=(("web", ip_network("198.51.100.128/25")), ("wan", ip_network("192.0.2.128/25"))))
    web = next(place for place in places(survey) if place.interface == "web")
    assert list(map(str, web.networks)) == ["198.51.100.0/24", "198.51.100.128/25"]


def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(EgressguardError, match="eth7: there is no such interface; there are dmz, lo, wan, web"):
        places(Survey(LINKS), inside=frozenset({"eth7"}))


def test_who_only_sends_is_not_likely_since_a_spambot_does() -> None:
    one, = found(Flow(WEB, OUTSIDE))
    assert (one.addresses, one.likely) == ((WEB,), False)
    assert "a spambot does too" in one.why


def test_who_sends_and_receives_is_a_mailserver() -> None:
    one, = found(Flow(RELAY, OUTSIDE), Flow(OUTSIDE, RELAY))
    assert (one.addresses, one.likely) == ((RELAY,), True)
    assert str(OUTSIDE) in one.why


def test_who_answers_on_port_25_counts_as_one_who_receives() -> None:
    one, = found(Flow(RELAY, OUTSIDE), listeners=frozenset({RELAY}))
    assert one.likely


def test_addresses_with_one_mac_are_one_machine() -> None:
    one, = found(Flow(RELAY, OUTSIDE), Flow(OUTSIDE, RELAY6), macs={RELAY: "00:00:5e:00:53:0a", RELAY6: "00:00:5e:00:53:0a"})
    assert (one.addresses, one.likely) == ((RELAY, RELAY6), True)


def test_mail_that_passes_between_outside_and_outside_concerns_nobody() -> None:
    assert found(Flow(OUTSIDE, ip_address("203.0.113.2"))) == []


def test_the_file_observes_and_keeps_the_doubtful_as_comments() -> None:
    chosen = places(Survey(LINKS))
    text = configuration("router", chosen, [Candidate("relay", (RELAY,), True, "named")],
                         [Candidate("mail1", (WEB,), False, "only sends")])
    file = tomllib.loads(text)
    assert file["mode"] == "observe"
    assert [i["interfaces"] for i in file["inside"]] == [["dmz"], ["web"]]
    assert [s["name"] for s in file["sender"]] == ["relay"]
    assert '# addresses = ["198.51.100.11"]' in text
    assert "# wan is outside: a default route leads through it" in text


def test_without_anything_inside_every_interface_is_explained() -> None:
    with pytest.raises(EgressguardError, match=r"wan: outside, because a default route(.|\n)*--inside INTERFACE"):
        configuration("router", places(Survey(LINKS[:2])), [], [])


def test_one_network_on_two_interfaces_stands_in_the_file_once() -> None:
    text = configuration("r", places(Survey((*LINKS, link("web2", "198.51.100.2/24")))), [], [])
    assert ["web", "web2"] in [i["interfaces"] for i in tomllib.loads(text)["inside"]]
    assert text.count("198.51.100.0/24") == 1


@pytest.mark.parametrize("text", ["relay", "relay=", "=192.0.2.1", "relay=192.0.2.300", "relay=host.example"])
def test_a_sender_that_cannot_be_read_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(EgressguardError, match=r"relay=192\.0\.2\.10"):
        named(text)


def test_a_named_sender_has_all_its_addresses() -> None:
    assert named("relay=192.0.2.10, 2001:db8:0:a::2").addresses == (RELAY, RELAY6)


@pytest.mark.parametrize("manual", ["docs/rollout.md", "docs/emergency.md"])
def test_what_the_manual_says_of_the_mode_works_on_a_file_that_init_has_written(manual: str, tmp_path: Path) -> None:
    orders = re.findall(r"^sed -i '(.*)' /etc/egressguard/egressguard.toml$", (ROOT / manual).read_text(), re.MULTILINE)
    wanted = [re.findall("observe|enforce", order)[-1] for order in orders]
    assert wanted
    file = tmp_path / "egressguard.toml"
    file.write_text(configuration("router", places(Survey(LINKS)), [Candidate("relay", (RELAY,), True, "named")], []))
    for order, mode in zip(orders, wanted, strict=True):
        for before in ("enforce", "observe"):
            subprocess.run(["sed", "-i", f's/^mode = .*/mode = "{before}"/', file], check=True)
            subprocess.run(["sed", "-i", order, file], check=True)
            assert read_site(file).settings.mode == mode
