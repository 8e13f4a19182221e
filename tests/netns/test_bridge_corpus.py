"""Every shape of packet from a virtual machine's port to the uplink of its bridge, tagged and untagged, with
bridge-nf-call-iptables 0 and 1: none leaves that must not, each is counted once. Each defence is taken away once."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import pytest

from lab.firewall import BRIDGE_RULES, RULES, Firewall
from lab.headers import Flow, ip, tcp
from lab.hypervisor import Hypervisor
from lab.network import WEB1, WEB2
from lab.packets import IPV4, IPV6
from lab.shapes import SHAPES, Shape
from lab.travel import Fate, travel
from tests.netns.test_corpus import FAMILIES, HALVES, KERNEL, NO_SYN, NOT_TCP, TUNNELED, UNREADABLE, place_of
from tests.promises import promise

Fates = Mapping[str, Fate]
TWIN, MAIN = BRIDGE_RULES.read_text("utf-8"), RULES.read_text("utf-8")
CALLS = (0, 1)
ELEMENTS = """
add element bridge egressguard inside_if { "vnet1", "vnet2" }
add element bridge egressguard home4 { "vnet1" . 198.51.100.0/24, "vnet2" . 198.51.100.0/24 }
add element bridge egressguard home6 { "vnet1" . 2001:db8:0:10::/60, "vnet2" . 2001:db8:0:10::/60 }
add element bridge egressguard allow4 { "vnet1" . 198.51.100.11 }
add element bridge egressguard allow6 { "vnet1" . 2001:db8:0:11::2 }
add element bridge egressguard known4 { 198.51.100.12 }
add element bridge egressguard known6 { 2001:db8:0:12:: }
add element inet egressguard bridged_if { "br0" }
"""
OBSERVE = "add element bridge egressguard observed_family { ip, ip6 }\nadd element inet egressguard observed_family { ipv4, ipv6 }"
# Beside what no rule can read, what no host would take.
BROKEN = UNREADABLE | {name for name in KERNEL if "length" in name}


def tagged(shape: Shape, *tags: int) -> Shape:
    """The shape behind VLAN tags, the outermost first; `travel` writes the Ethernet type in front of it."""
    def build(flow: Flow) -> list[bytes]:
        inner = struct.pack("!H", IPV4 if flow.version == 4 else IPV6)
        head = b"".join(struct.pack("!HH", number, following) for number, following in
                        zip(range(5, 5 + len(tags)), [*tags[1:], 0], strict=True))[:-2] + inner
        return [head + packet for packet in shape.build(flow)]
    return Shape(f"{shape.name}, tags {', '.join(map(hex, tags))}", build, shape.families, tags[0])


SYN = Shape("SYN", lambda flow: [ip(flow, tcp(flow))])
TAGGED = [tagged(shape, 0x8100) for shape in SHAPES]
# Where else an IP packet can hide: LLC with SNAP (its "type" is a length), NSH, TRILL, batman, HSR, PRP, VN-Tag.
LLC = Shape("LLC and SNAP", lambda flow: [b"\xaa\xaa\x03\0\0\0\x08\0" + ip(flow, tcp(flow))], ether_type=48)
ARP = Shape("ARP", lambda flow: [bytes(28)], ether_type=0x0806)
UNREAD = [LLC, *(Shape(hex(kind), lambda flow: [ip(flow, tcp(flow))], ether_type=kind)
                 for kind in (0x894F, 0x22F3, 0x4305, 0x892F, 0x88FB, 0x8926))]
TWICE = [tagged(SYN, *tags) for tags in (*product((0x8100, 0x88A8), repeat=2), (0x9100,), (0x9200,))]


@dataclass
class Bridge:
    """The hypervisor, with both tables in it."""

    world: Hypervisor
    firewall: Firewall

    def load(self, twin: str, calls: int, more: str = "") -> None:
        self.world.bridge_calls(calls)
        self.firewall.change(f"flush ruleset\n{MAIN}\n{twin}\n{ELEMENTS}\n{more}\n")

    def counters(self) -> Mapping[str, int]:
        """The sum of both tables: what is counted twice shows."""
        here, there = self.firewall.counters("bridge"), self.firewall.counters()
        return {name: here.get(name, 0) + there.get(name, 0) for name in here.keys() | there.keys()}

    def web2(self, family: int, shapes: list[Shape] = list(SHAPES), source: str = "") -> Fates:  # noqa: B006
        """From a machine that may not."""
        return travel(self.world, WEB2, shapes, family, self.counters, source)

    def web1(self, family: int, shapes: list[Shape] = list(SHAPES)) -> Fates:  # noqa: B006
        """From a machine that may."""
        return travel(self.world, WEB1, shapes, family, self.counters)


@pytest.fixture(scope="module")
def bridge(root: None) -> Iterator[Bridge]:
    with Hypervisor() as world, Firewall(world) as firewall:
        yield Bridge(world, firewall)


def allowed(name: str, family: int) -> int:
    """How many packets of a shape may leave: halves that can never be SMTP, and what is no TCP at all."""
    base = name.partition(", tags")[0]
    return 9 if place_of(base, family) in ("tunneled", "nothing") else HALVES.get(base, 0)


def nothing_leaves(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        fates = bridge.web2(family)
        assert {n: f.arrived for n, f in fates.items() if f.arrived > allowed(n, family)} == {}, f"IPv{family}, calls {calls}"


def nothing_leaves_tagged(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        fates = bridge.web2(family, TAGGED)
        assert {n: f.arrived for n, f in fates.items() if f.arrived > allowed(n, family)} == {}, f"IPv{family}, calls {calls}"


def two_tags_hide_nothing(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        for name, fate in bridge.web2(family, TWICE).items():
            assert (fate.arrived, dict(fate.counted)) == (0, {"odd": 1}), f"{name}, IPv{family}"


def what_it_does_not_read_is_counted(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        for name, fate in bridge.web2(family, UNREAD).items():
            assert dict(fate.counted) == {"unread": 1}, f"{name}, IPv{family}"
        assert bridge.web2(family, [ARP])["ARP"].counted == {}


def each_is_counted_once(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        for shapes in (list(SHAPES), TAGGED):
            for name, fate in bridge.web2(family, shapes).items():
                check_count(name.partition(", tags")[0], family, dict(fate.counted), f"{name}, IPv{family}, calls {calls}")


def check_count(name: str, family: int, counted: dict[str, int], where: str) -> None:
    place = place_of(name, family)
    whole = "fragment" not in name or name.startswith(("atomic", "destination options behind", "fragment bit"))
    if place == "attempts" and whole:
        assert counted == {"blocked": 1, "attempts": 1}, where
    elif name in NO_SYN | NOT_TCP | TUNNELED:
        assert counted == {"nothing": {}, "tunneled": {"tunneled": 1}, "blocked": {"blocked": 1}}[place], where
    elif place not in ("kernel", "reassembly"):
        assert {"blocked", "odd"} & counted.keys(), where
    assert set(counted.values()) <= {1} or not whole, where


def senders_lose_nothing(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.firewall.change("flush ruleset")
        bridge.world.bridge_calls(calls)
        free = bridge.web1(family)
        bridge.load(twin, 0)  # what reassembly alone costs is not the rules' doing
        if not calls:
            fates = bridge.web1(family)
            assert {n: f.arrived for n, f in fates.items() if n not in BROKEN} == {
                n: f.arrived for n, f in free.items() if n not in BROKEN}
        bridge.load(twin, calls)
        counted = {n: dict(f.counted) for n, f in bridge.web1(family).items() if n not in BROKEN and "tunneled" not in f.counted}
        assert {n: c for n, c in counted.items() if c} == {}, f"IPv{family}, calls {calls}"


def observing_blocks_nothing_and_counts_once(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.firewall.change("flush ruleset")
        bridge.world.bridge_calls(0)
        free = bridge.web2(family)
        bridge.load(twin, calls, OBSERVE)
        fates = bridge.web2(family)
        if not calls:
            assert {n: f.arrived for n, f in fates.items()} == {n: f.arrived for n, f in free.items()}
        assert fates["SYN"] == Fate(1, {"blocked": 1, "attempts": 1}), f"IPv{family}, calls {calls}"
        assert fates["ACK"] == Fate(1, {"blocked": 1}), f"IPv{family}, calls {calls}"


def between_machines_nothing_is_judged(bridge: Bridge, twin: str) -> None:
    """Also where the bridge is no inside interface of the router's rules."""
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        assert bridge.world.web2.call(answers_at, WEB1.addresses[family == 6]), f"IPv{family}, calls {calls}"
        assert set(bridge.counters().values()) == {0}


def quarantined_machines_reach_no_machine(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls, "add element bridge egressguard quarantine4 { 198.51.100.12 timeout 60s }\n"
                                 "add element bridge egressguard quarantine6 { 2001:db8:0:12:: timeout 60s }")
        assert not bridge.world.web2.call(answers_at, WEB1.addresses[family == 6]), f"IPv{family}, calls {calls}"
        counted = bridge.counters()
        assert counted["quarantined"] == counted["attempts"] == counted["blocked"] > 0


def a_forged_source_has_no_counter_of_its_own(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        fate = bridge.web2(family, [SYN], {4: "192.0.2.77", 6: "2001:db8:7::1"}[family])["SYN"]
        assert (fate.arrived, dict(fate.counted)) == (0, {"blocked": 1, "spoofed": 1})


def the_address_of_a_sender_is_nothing_behind_another_port(bridge: Bridge, twin: str) -> None:
    for calls, family in product(CALLS, FAMILIES):
        bridge.load(twin, calls)
        fate = bridge.web2(family, [SYN], WEB1.addresses[family == 6])["SYN"]
        assert (fate.arrived, dict(fate.counted)) == (0, {"blocked": 1, "attempts": 1})


def answers_at(address: str) -> bool:
    from lab.network import answers
    return answers(address, 25)


CHECKS: tuple[Callable[[Bridge, str], None], ...] = (
    nothing_leaves, nothing_leaves_tagged, two_tags_hide_nothing, what_it_does_not_read_is_counted, each_is_counted_once, senders_lose_nothing,
    observing_blocks_nothing_and_counts_once, between_machines_nothing_is_judged, quarantined_machines_reach_no_machine,
    a_forged_source_has_no_counter_of_its_own, the_address_of_a_sender_is_nothing_behind_another_port,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_bridge(bridge: Bridge, check: Callable[[Bridge, str], None]) -> None:
    check(bridge, TWIN)


def test_no_forbidden_shape_crosses_the_bridge(bridge: Bridge) -> None:
    out = sent = 0
    for calls, family, shapes in product(CALLS, FAMILIES, (list(SHAPES), TAGGED, TWICE)):
        bridge.load(TWIN, calls)
        fates = bridge.web2(family, shapes)
        sent += len(fates)
        out += sum(fate.arrived > allowed(name, family) for name, fate in fates.items())
    assert sent > 8 * 46
    promise(3, "forbidden packets beyond the uplink of a bridge, tagged or not, bridge-nf-call-iptables 0 and 1", out, 0, f"{sent} shapes")
    assert out == 0


MUTANTS: dict[str, tuple[str, str, Callable[[Bridge, str], None]]] = {
    "without its last line": ("th dport @smtp_ports goto smtp\n\t\tgoto oddity\n", "th dport @smtp_ports goto smtp\n", nothing_leaves),
    "without the IPv4 fragment line": ("\t\tmeta protocol ip ip frag-off & 0x1fff != 0 goto fragment\n", "", nothing_leaves),
    "without the IPv6 fragment line": ("\t\tmeta protocol ip6 frag frag-off != 0 goto fragment\n", "", nothing_leaves),
    "that asks the Ethernet header for IPv6": ("meta protocol ip6 frag", "frag", nothing_leaves_tagged),
    "that asks the Ethernet header for IP": ("meta protocol != ip meta protocol != ip6 goto", "ether type != ip ether type != ip6 goto",
                                             nothing_leaves_tagged),
    "without tags": ("meta protocol @tag_types goto oddity", "meta protocol @tag_types return", two_tags_hide_nothing),
    "that knows fewer tags": ("0x9100, 0x9200 }", "0x9100 }", two_tags_hide_nothing),
    "that counts nothing that it cannot read": ("\t\tmeta protocol != @plain_types counter name unread\n", "",
                                                what_it_does_not_read_is_counted),
    "that counts ARP": ("meta protocol != @plain_types counter", "counter", what_it_does_not_read_is_counted),
    "that marks nothing": ("\t\tmeta mark set meta mark | $permitted\n", "", observing_blocks_nothing_and_counts_once),
    "that does not mark what stays inside": ("oifname @inside_if goto permit\n\t\tth", "oifname @inside_if return\n\t\tth",
                                             between_machines_nothing_is_judged),
    "with quarantine behind the machines' ports": (
        "\t\tth dport @smtp_ports ip saddr @quarantine4 goto quarantine\n", "\t\toifname @inside_if goto permit\n",
        quarantined_machines_reach_no_machine),
    "without homes": ("\t\tgoto spoof\n", "\t\tgoto plausible\n", a_forged_source_has_no_counter_of_its_own),
    "whose senders are addresses alone": ("iifname . ip saddr @allow4 goto sender", "ip saddr 198.51.100.11 goto sender",
                                          the_address_of_a_sender_is_nothing_behind_another_port),
    "that counts every packet": ("tcp flags & (fin|syn|rst|ack) == syn jump attempt", "jump attempt", each_is_counted_once),
    "whose oddities forget mode observe": ("\t\tmeta protocol @observed_family goto permit\n\t\tdrop\n", "\t\tdrop\n",
                                           observing_blocks_nothing_and_counts_once),
    "without the tunnels' counter": ("@tunnel_protocols oifname != @inside_if counter name tunneled goto permit", "@tunnel_protocols continue",
                                     each_is_counted_once),
    "whose fragments belong to nobody": ("\t\tiifname . ip saddr @allow4 goto permit\n", "", senders_lose_nothing),
    "that hangs behind the router's rules": ("priority filter - 10", "priority 300", each_is_counted_once),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_twin_is_noticed(bridge: Bridge, mutant: str) -> None:
    old, new, check = MUTANTS[mutant]
    assert old in TWIN
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(bridge, TWIN.replace(old, new))


def test_a_router_that_trusts_no_mark_is_noticed(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "\t\tmeta mark & $permitted == $permitted iifname @bridged_if accept\n"
    assert line in MAIN
    monkeypatch.setitem(globals(), "MAIN", MAIN.replace(line, ""))
    with pytest.raises(AssertionError):
        observing_blocks_nothing_and_counts_once(bridge, TWIN)
