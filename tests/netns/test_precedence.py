"""Which rule comes before which, where two have something to say: quarantine and forged sources, quarantine and tied
senders, opening and groups, groups and forged sources, translation and memory. Each with a ruleset that does it wrong."""

from collections.abc import Callable

import pytest

from lab.firewall import RULES
from lab.network import MAILSERVER, RELAY, ROUTER_MAC
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire
from tests.netns import test_flood
from tests.netns.test_flood import FLOOD, TARGETS, Scene, both_families

scene = test_flood.scene  # the fixture
TEXT = RULES.read_text("utf-8")
WEB2_64, RELAY_64 = "2001:db8:0:12::", "2001:db8:0:a::"
SYNS = 20  # few enough for no refusal to be in silence


def elements(name: str, *which: str) -> str:
    return f"add element inet egressguard {name} {{ {', '.join(which)} }}\n"


def forged(scene: Scene) -> int:
    """How many SYNs with web2's address get out that were sent from behind another interface."""
    with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
        SynSource(scene.world.mailserver, Wire("eth0", MAILSERVER.mac, ROUTER_MAC["dmz"]), sources=[scene.web2],
                  destinations=[TARGETS[scene.family]], count=SYNS).wait()
        return beyond.stop()


def who_forges_a_quarantined_address_frames_nobody(scene: Scene, text: str) -> None:
    host = scene.web2 if scene.family == 4 else WEB2_64
    scene.load(text, more=elements(f"quarantine{scene.family}", f"{host} timeout 1h"))
    assert forged(scene) == 0
    found = scene.firewall.counters()
    assert (found["quarantined"], found["spoofed"], found["attempts"], scene.counted()) == (SYNS, SYNS, 0, 0)


def a_tied_sender_in_quarantine_passes(scene: Scene, text: str) -> None:
    address, key = (RELAY.ipv4, RELAY.ipv4) if scene.family == 4 else (RELAY.ipv6, RELAY_64)
    scene.load(text, more="".join([
        f'delete element inet egressguard allow{scene.family} {{ "dmz" . {address} }}\n',
        elements(f"allow_mac{scene.family}", f'"dmz" . {address} . {RELAY.mac}'),
        elements(f"quarantine{scene.family}", f"{key} timeout 1h")]))
    with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
        SynSource(scene.world.relay, Wire("eth0", RELAY.mac, ROUTER_MAC["dmz"]), sources=[address],
                  destinations=[TARGETS[scene.family]], count=SYNS).wait()
        assert beyond.stop() == SYNS


def what_is_opened_is_open_for_enforcing_groups_too(scene: Scene, text: str) -> None:
    scene.load(text, more=elements(f"group_enforce{scene.family}", f"25 . {network(scene)}")
               + elements("opened_family", "ipv4 timeout 1h", "ipv6 timeout 1h"))
    with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
        scene.send(SYNS)
        assert beyond.stop() == SYNS


def network(scene: Scene) -> str:
    return "198.51.100.0/24" if scene.family == 4 else f"{WEB2_64}/64"


def a_forged_address_of_an_enforcing_group_stays_in_mode_observe(scene: Scene, text: str) -> None:
    scene.load(text, "observe", elements(f"group_enforce{scene.family}", f"25 . {network(scene)}"))
    assert forged(scene) == 0
    assert scene.firewall.counters()["spoofed"] == SYNS


def a_flood_is_known_by_what_it_asked_for(scene: Scene, text: str) -> None:
    """Also where a rule of the site's leads it elsewhere, behind the chain that looks first."""
    ip, other = ("ip", "203.0.113.200") if scene.family == 4 else ("ip6", "2001:db8:ffff::200")
    scene.load(text, more=f"table {ip} site {{ chain pre {{ type nat hook prerouting priority dstnat; tcp dport 25 dnat to {other}; }}; }}\n")
    sent = scene.send(FLOOD)
    assert scene.firewall.counters()["attempts"] == sent
    assert scene.late() < sent / 2


Check = Callable[[Scene, str], None]
MUTANTS: dict[str, tuple[Check, str, str]] = {
    "without a look at a quarantined source": (
        who_forges_a_quarantined_address_frames_nobody,
        "\t\tfib saddr . iif oif missing goto spoof\n\t\ttcp flags & (fin|syn|rst|ack) == syn jump quarantined_attempt\n",
        "\t\ttcp flags & (fin|syn|rst|ack) == syn jump quarantined_attempt\n"),
    "that quarantines tied senders": (
        a_tied_sender_in_quarantine_passes,
        "\t\tiifname . ip saddr . ether saddr @allow_mac4 goto sender\n\t\tiifname . ip6 saddr . ether saddr @allow_mac6 goto sender\n"
        "\t\tcounter name quarantined\n", "\t\tcounter name quarantined\n"),
    "that opens for no enforcing group": (
        what_is_opened_is_open_for_enforcing_groups_too,
        "\t\tmeta nfproto @opened_family goto permit\n\t\tth dport . ip saddr @group_enforce4 goto refuse\n"
        "\t\tth dport . ip6 saddr @group_enforce6 goto refuse\n",
        "\t\tth dport . ip saddr @group_enforce4 goto refuse\n\t\tth dport . ip6 saddr @group_enforce6 goto refuse\n"
        "\t\tmeta nfproto @opened_family goto permit\n"),
    "whose forgers belong to no group": (
        a_forged_address_of_an_enforcing_group_stays_in_mode_observe,
        "\t\tcounter name spoofed\n\t\tth dport . ip saddr @group_enforce4 drop\n\t\tth dport . ip6 saddr @group_enforce6 drop\n",
        "\t\tcounter name spoofed\n"),
    "that remembers where a packet was led": (a_flood_is_known_by_what_it_asked_for, "ct original ip", "ip"),
}


@both_families
@pytest.mark.parametrize("mutant", MUTANTS)
def test_with_the_rules_as_they_are(scene: Scene, mutant: str) -> None:
    MUTANTS[mutant][0](scene, TEXT)


@both_families
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_ruleset_is_noticed(scene: Scene, mutant: str) -> None:
    check, old, new = MUTANTS[mutant]
    assert old in TEXT
    with pytest.raises(AssertionError):
        check(scene, TEXT.replace(old, new))
