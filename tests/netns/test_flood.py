"""A flood is refused before routing and connection tracking, and counted as if each SYN had been looked at; nobody
else's packets, and no other packets of the same host, meet what is remembered of it. Each with a mutant."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard.core.ruleset import ATTEMPT_MACS, DESTINATIONS, INVENTORY
from egressguard.core.shards import shard_of
from lab.deployment import Deployment
from lab.firewall import RULES, Firewall
from lab.namespaces import LabError, impatient, wait_until
from lab.network import ROUTER_MAC, WEB1, WEB2, World
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire, addresses, frames

TEXT = RULES.read_text("utf-8")
TARGETS = {4: "203.0.113.128/30", 6: "2001:db8:ffff::/126"}
FLOOD = 20_000
# What reaches the forward hook, before our rules.
LATE = """
table inet late {
    counter late { }
    chain c {
        type filter hook forward priority -20
        tcp dport 25 counter name late
    }
}
"""


@dataclass
class Scene:
    """The world, its rules, and what was seen in it."""

    world: World
    firewall: Firewall
    folder: Path
    family: int

    def load(self, text: str, mode: str = "enforce", more: str = "") -> None:
        site = Deployment(self.world, self.folder, mode=mode)
        self.firewall.load(text, site.router_config, LATE + more)

    @property
    def web2(self) -> str:
        return WEB2.addresses[self.family == 6]

    def send(self, count: int = FLOOD, mac: str = WEB2.mac, port: int = 25) -> int:
        return SynSource(self.world.web2, Wire("eth0", mac, ROUTER_MAC["web"]), sources=[self.web2],
                         destinations=[TARGETS[self.family]], count=count, port=port).wait()

    def late(self) -> int:
        listed = self.world.router.run(["nft", "list", "counter", "inet", "late", "late"]).stdout
        found = re.search(r"packets (\d+)", listed)
        assert found
        return int(found[1])

    def counted(self) -> int:
        host = ip_address(self.web2 if self.family == 4 else "2001:db8:0:12::")
        name = shard_of(host)
        return self.firewall.elements(name, INVENTORY[name])[(str(host),)]

    def remembered(self) -> int:
        return self.world.router.run(["nft", "list", "set", "inet", "egressguard", f"flood{self.family}"]).stdout.count("expires")


@pytest.fixture
def scene(fresh_world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    with Firewall(fresh_world) as firewall:
        yield Scene(fresh_world, firewall, tmp_path, getattr(request, "param", 4))


both_families = pytest.mark.parametrize("scene", [4, 6], indirect=True)


def it_is_counted_exactly_and_refused_early(scene: Scene, text: str) -> None:
    scene.load(text)
    with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
        sent = scene.send()
        assert beyond.stop() == 0
    counters = scene.firewall.counters()
    assert (counters["attempts"], counters["blocked"], scene.counted()) == (sent, sent, sent)
    name = f"fanout{scene.family}"
    destinations = scene.firewall.elements(name, DESTINATIONS[name])
    assert (len(destinations), sum(destinations.values())) == (4, sent)
    assert scene.late() < sent / 2


def another_mac_is_seen_in_the_middle_of_it(scene: Scene, text: str) -> None:
    scene.load(text)
    scene.send()
    scene.send(8, mac=WEB1.mac)
    name = f"attempt_mac{scene.family}"
    assert len(scene.firewall.elements(name, ATTEMPT_MACS[name])) == 2


def mode_observe_lets_it_pass(scene: Scene, text: str) -> None:
    scene.load(text, "observe")
    with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
        sent = scene.send()
        assert beyond.stop() == sent


def who_may_again_passes_soon(scene: Scene, text: str) -> None:
    scene.load(text)
    scene.send()
    assert scene.remembered()
    scene.firewall.change(f'add element inet egressguard allow{scene.family} {{ "web" . {scene.web2} }}')

    def passes() -> bool:
        with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
            scene.send(1)
            return beyond.stop() == 1

    wait_until(passes, "a host that may again to pass")


def a_quarantined_host_is_counted_as_such(scene: Scene, text: str) -> None:
    host = scene.web2 if scene.family == 4 else "2001:db8:0:12::"
    scene.load(text, more=f"\nadd element inet egressguard quarantine{scene.family} {{ {host} timeout 1h }}\n")
    sent = scene.send()
    assert scene.firewall.counters()["quarantined"] == sent


def with_a_long_memory(text: str) -> str:
    """Or a slow machine has forgotten the flood before what is sent after it."""
    assert "timeout 1s" in text
    return text.replace("timeout 1s", "timeout 1m")


def other_ports_are_another_matter(scene: Scene, text: str) -> None:
    text = with_a_long_memory(text)
    network = "198.51.100.0/24" if scene.family == 4 else "2001:db8:0:12::/64"
    scene.load(text, "observe", "\nadd element inet egressguard smtp_ports { 587 }\n"
               f"add element inet egressguard group_enforce{scene.family} {{ 587 . {network} }}\n")
    with CountingSniffer(scene.world.outside, "eth0", port=25) as beyond:
        scene.send(port=587)
        sent = scene.send(100)
        assert beyond.stop() == sent


def received(datagrams: socket.socket) -> bytes:
    try:
        return datagrams.recv(100)
    except TimeoutError:
        return b""


def what_is_not_tcp_passes_in_the_middle_of_it(scene: Scene, text: str) -> None:
    scene.load(with_a_long_memory(text))
    target = str(addresses([TARGETS[scene.family]])[0])
    kind = socket.AF_INET if scene.family == 4 else socket.AF_INET6
    scene.send()
    host, outside = (place.call(socket.socket, kind, socket.SOCK_DGRAM) for place in (scene.world.web2, scene.world.outside))
    with host, outside:
        outside.settimeout(2)
        outside.bind(("", 25))
        for _ in range(10):
            host.sendto(b"no connection", (target, 25))
            assert received(outside) == b"no connection"


CHECKS: tuple[Callable[[Scene, str], None], ...] = (
    it_is_counted_exactly_and_refused_early, another_mac_is_seen_in_the_middle_of_it, mode_observe_lets_it_pass,
    who_may_again_passes_soon, a_quarantined_host_is_counted_as_such, other_ports_are_another_matter,
    what_is_not_tcp_passes_in_the_middle_of_it)


@both_families
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_flood(scene: Scene, check: Callable[[Scene, str], None]) -> None:
    check(scene, TEXT)


Edit = tuple[str, str]
MUTANTS: dict[str, tuple[Callable[[Scene, str], None], tuple[Edit, ...]]] = {
    "that looks at every SYN": (it_is_counted_exactly_and_refused_early, (("\t\tth dport 25 goto flood\n", ""),)),
    "that counts no host of a flood": (it_is_counted_exactly_and_refused_early, (("\t\tjump host\n\t\tdrop\n", "\t\tdrop\n"),)),
    "that takes every packet to port 25 for TCP": (what_is_not_tcp_passes_in_the_middle_of_it, (
        ("\t\tmeta l4proto != tcp return\n\t\tip frag-off", "\t\tip frag-off"),
        ("\t\ttcp flags & (fin|syn|rst|ack) != syn return\n\t\tiif . ether", "\t\tiif . ether"))),
    "that lets a flood pass": (it_is_counted_exactly_and_refused_early, (("\t\tjump host\n\t\tdrop\n", "\t\tjump host\n\t\taccept\n"),
                                                                        ("\t\tjump remember\n\t\tdrop\n", "\t\tjump remember\n\t\taccept\n"))),
    "that remembers no MAC": (another_mac_is_seen_in_the_middle_of_it, (
        ("iface_index . ether_addr . ", "iface_index . "), ("iif . ether saddr . ", "iif . "))),
    "that remembers what it watched": (mode_observe_lets_it_pass, (
        ("\tchain refuse_or_watch {\n", "\tchain refuse_or_watch {\n\t\tjump remember\n"),)),
    "that remembers for an hour": (who_may_again_passes_soon, (("timeout 1s", "timeout 1h"),)),
    "that forgets who is quarantined": (a_quarantined_host_is_counted_as_such, (
        ("\t\tjump answer\n\t\tdrop\n", "\t\tgoto refuse\n"),)),
    "that forgets the port": (other_ports_are_another_matter, (("\t\tth dport != 25 return\n", ""),)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_ruleset_is_noticed(scene: Scene, mutant: str) -> None:
    check, edits = MUTANTS[mutant]
    text = TEXT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    with impatient(), pytest.raises((AssertionError, LabError)):
        check(scene, text)


def test_what_is_no_syn_is_looked_at_in_the_middle_of_a_flood(scene: Scene) -> None:
    """Data of a connection that lost its permission is no attempt, whatever its host floods."""
    for text, right in ((TEXT, True), (TEXT.replace("\t\ttcp flags & (fin|syn|rst|ack) != syn return\n\t\tiif . ether",
                                                    "\t\tiif . ether"), False)):
        scene.load(text)
        sent = scene.send()
        acks = send_acks(scene, 100)
        assert acks == 100
        assert (scene.firewall.counters()["attempts"] == sent) is right


def send_acks(scene: Scene, count: int) -> int:
    made = frames(Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), [ip_address(scene.web2)], addresses([TARGETS[scene.family]]), 4, 25)
    flags_at = 14 + (20 if scene.family == 4 else 40) + 13

    def send() -> int:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind(("eth0", 0))
            for n in range(count):
                frame = bytearray(made[n % len(made)])
                frame[flags_at] = 0x10
                raw.send(frame)
        return count

    return scene.world.web2.call(send)
