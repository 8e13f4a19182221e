"""Every shape of packet towards port 25, in both families: none leaves that must not, each lands in a named counter,
and a permitted sender loses none that the kernel forwards. Each defence is taken away once, and a check fails."""

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from egressguard.core.ruleset import INVENTORY, STRANGERS
from egressguard.core.shards import NAMES
from lab.deployment import Deployment
from lab.firewall import REASSEMBLY, RULES, Firewall
from lab.network import OUTSIDE, RELAY, SOMEBODY4, SOMEBODY6, WEB1, WEB2, Place, World
from lab.shapes import FLAGS, SHAPES
from lab.sniffer import Sniffer
from lab.travel import FIRST, Fate, travel
from tests.promises import promise

Fates = Mapping[str, Fate]
FAMILIES = (4, 6)
TEXT = RULES.read_text("utf-8")
both_families = pytest.mark.parametrize("family", FAMILIES)

# Where each shape ends; whatever is not listed here is an attempt. A number after the name: only that family.
NO_SYN = {"ACK", "ACK PSH with data", "urgent data"}
ODD = {
    *(name for name in FLAGS if name in {"FIN PSH URG (xmas)", "no flags", "all flags"} or name.startswith(("FIN", "RST"))),
    "SYN ACK", "SYN FIN", "SYN RST", "data offset 0", "data offset 4", "data offset beyond the end",
    "wrong TCP checksum", "no TCP checksum", "total length without the TCP header", "extension header beyond the end",
    "payload length without the TCP header",
    *(shape.name for shape in SHAPES if shape.name.startswith("cut after")),
    # Linux reassembles no IPv6 fragments whose first one lacks a part of the TCP header (RFC 8200 section 4.5).
    "two fragments, flags in the second 6", "three fragments 6", "fragments in reverse 6", "fragments, one twice 6",
    "a tiny first fragment alone 6", "a first fragment of 13 octets 6", "a first fragment of 2 octets 6",
    "fragments with the ports in the second", "fragments cut within an option",
    "a first fragment within a whole packet", "a tail within a whole packet",
}
TUNNELED = {
    "IP in IP (4)", "IPv6 in IP (41)", "GRE (47)", "SCTP to port 25 (132)", "AH", "AH behind destination options",
    "mobility header (135)", "HIP (139)", "shim6 (140)", "EtherIP (97)", "IPComp (108)", "L2TP (115)", "MPLS in IP (137)",
    "ESP (50)",
}
NOT_TCP = {"UDP to port 25 (17)", "DCCP to port 25 (33)", "TCP behind no next header"}
KERNEL = {
    "strict source route, used up": "the next hop is not the destination, as a strict route demands",
    "strict source route, open": "the next hop is not the destination, as a strict route demands",
    "option longer than the header": "malformed IP options",
    "wrong IP checksum": "not an IP packet",
    "header length 4": "not an IP packet",
    "header length 15 that swallows the ports": "the TCP header is read as malformed IP options",
    "total length beyond the end": "shorter than it says",
    "payload length beyond the end": "shorter than it says",
    "TTL 1": "its way ends here",
    "hop limit 1": "its way ends here",
    "unknown hop-by-hop option to be discarded": "the option itself says so",
}
NEVER_WHOLE = {
    "overlapping fragments in the data": "reassembly refuses overlaps",
    "overlapping fragments that rewrite the port 6": "reassembly refuses overlaps (RFC 5722)",
    "a first fragment alone": "the rest never comes",
    "a tiny first fragment alone 4": "the rest never comes",
    "a first fragment of 13 octets 4": "not a multiple of 8",
    "a first fragment of 2 octets 4": "not a multiple of 8",
    "a tail alone": "the head never comes",
    "a tail at octet 8 alone": "the head never comes",
    "a tail that looks like a SYN": "the head never comes",
    "a middle alone": "the rest never comes",
    "a tail beyond 65,535 octets": "no packet is so long",
    "fragment bit and flag DF": "a first fragment whose rest never comes",
}
# What even a sender cannot say: without a readable port nothing tells that it is SMTP.
UNREADABLE = {
    "cut after 0 octets of TCP", "cut after 2 octets of TCP", "cut after 3 octets of TCP",
    "a first fragment of 2 octets", "fragments with the ports in the second", "fragments cut within an option",
    "a tail within a whole packet", "extension header beyond the end", "total length without the TCP header",
    "payload length without the TCP header",
}
# Without reassembly one of the two packets of these passes, the other does not: alone it can never be SMTP.
HALVES = {"overlapping fragments that rewrite the port": 1, "a tail within a whole packet": 1}
TUNNEL = 94  # IP within IP, which the kernel itself takes no notice of
# A foreign table may switch tracking off before reassembly: then fragments reach the rules as such.
NOTRACK = "table inet other {\nchain early {\ntype filter hook prerouting priority -450;\nnotrack\n}\n}"

GROUP = f"""
[[group]]
name = "one of its own"
networks = ["{WEB2.ipv4}/32", "2001:db8:0:12::/64"]
mode = "{{mode}}"
"""


def place_of(name: str, family: int) -> str:
    """The counter, or the stage, in which a shape ends."""
    for place, names in {"odd": ODD, "tunneled": TUNNELED, "nothing": NOT_TCP, "blocked": NO_SYN,
                         "kernel": KERNEL, "reassembly": NEVER_WHOLE}.items():
        if name in names or f"{name} {family}" in names:
            return place
    return "attempts"


@dataclass
class Corpus:
    """The world, a firewall in it, and the shapes sent through."""

    world: World
    firewall: Firewall
    folder: Path

    def load(self, text: str = TEXT, mode: str = "enforce", more: str = "", group: str = "") -> None:
        """The rules with the lab's site; web2 may be a group of its own, in another mode."""
        site = Deployment(self.world, self.folder, mode=mode)
        if group:
            site.amend("", GROUP.format(mode=group))
        self.firewall.load(text, site.router_config, more)

    def web2(self, family: int, source: str = "") -> Fates:
        """From a host that may not."""
        return self.host(WEB2, family, source)

    def host(self, place: Place, family: int, source: str = "") -> Fates:
        """The same from another one."""
        return travel(self.world, place, SHAPES, family, self.firewall.counters, source)

    def relay(self, family: int) -> Fates:
        """From a host that may."""
        return travel(self.world, RELAY, SHAPES, family, self.firewall.counters)

    @cached_property
    def free(self) -> dict[int, Fates]:
        """What the kernel forwards without any rules."""
        self.firewall.change("flush ruleset")
        return {family: travel(self.world, WEB2, SHAPES, family) for family in FAMILIES}

    @cached_property
    def reassembled(self) -> dict[int, Fates]:
        """What the kernel forwards with reassembly and without any rules."""
        self.firewall.load(REASSEMBLY)
        return {family: travel(self.world, RELAY, SHAPES, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def corpus(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with World() as world, Firewall(world) as firewall:
        # Otherwise the kernel refuses source routes before any rule could.
        world.router.sysctl({f"net.ipv4.conf.{name}.accept_source_route": 1 for name in ("all", "web", "dmz", "wan")})
        world.router.ip("route add 2001:db8:1::/48 dev web")
        yield Corpus(world, firewall, tmp_path_factory.mktemp("corpus"))


def forbidden(family: int) -> list[str]:
    return [shape.name for shape in SHAPES if family in shape.families
            and place_of(shape.name, family) not in ("tunneled", "nothing")]


def nothing_leaves(corpus: Corpus, text: str) -> None:
    corpus.load(text)
    for family in FAMILIES:
        assert left(corpus.web2(family), family) == {}, f"forbidden shapes left in IPv{family}"


def left(fates: Fates, family: int) -> dict[str, int]:
    """The forbidden shapes that arrived outside."""
    return {name: fates[name].arrived for name in forbidden(family) if fates[name].arrived}


def nothing_leaves_untracked(corpus: Corpus, text: str) -> None:
    corpus.load(text, more=NOTRACK)
    for family in FAMILIES:
        fates = corpus.web2(family)
        out = {name: fates[name].arrived for name in forbidden(family) if fates[name].arrived}
        assert {name: n for name, n in out.items() if n > HALVES.get(name, 0)} == {}, f"forbidden shapes left in IPv{family} without reassembly"


def each_is_counted(corpus: Corpus, text: str) -> None:
    corpus.load(text)
    for family in FAMILIES:
        judge_counts(corpus.web2(family), family)


def judge_counts(fates: Fates, family: int) -> int:
    """How many of the forbidden shapes stand in a named counter, each in its own; the kernel itself keeps back the others."""
    counted = 0
    for name, fate in fates.items():
        expected = {place_of(name, family)} - {"nothing", "kernel", "reassembly"}
        if expected == {"attempts"}:
            expected = {"attempts", "blocked", "destinations"}
        assert set(fate.counted) == expected, f"{name}, IPv{family}"
        counted += bool(expected) and name in forbidden(family)
    return counted


def senders_lose_nothing(corpus: Corpus, text: str) -> None:
    expected = {family: {name: fate.arrived for name, fate in corpus.reassembled[family].items()
                         if name not in UNREADABLE} for family in FAMILIES}
    corpus.load(text)
    for family in FAMILIES:
        fates = corpus.relay(family)
        assert {name: fates[name].arrived for name in expected[family]} == expected[family]
        assert all(fates[name].counted == {"odd": 1} for name in UNREADABLE & fates.keys()
                   if corpus.reassembled[family][name].arrived == 1)


def observing_blocks_nothing(corpus: Corpus, text: str) -> None:
    expected = {family: {name: fate.arrived for name, fate in corpus.reassembled[family].items()} for family in FAMILIES}
    corpus.load(text, mode="observe")
    for family in FAMILIES:
        assert {name: fate.arrived for name, fate in corpus.web2(family).items()} == expected[family]


def a_group_that_is_observed_loses_nothing_where_the_site_enforces(corpus: Corpus, text: str) -> None:
    expected = {family: arrived(corpus.reassembled[family]) for family in FAMILIES}
    corpus.load(text, group="observe")
    for family in FAMILIES:
        fates, others = corpus.web2(family), corpus.host(WEB1, family)
        assert arrived(fates) == expected[family]
        assert left(others, family) == {}, f"forbidden shapes of another host left in IPv{family}"
        for found in (fates, others):
            judge_counts(found, family)


def a_group_that_is_enforced_loses_all_where_the_site_observes(corpus: Corpus, text: str) -> None:
    expected = {family: arrived(corpus.reassembled[family]) for family in FAMILIES}
    corpus.load(text, mode="observe", group="enforce")
    for family in FAMILIES:
        fates, others = corpus.web2(family), corpus.host(WEB1, family)
        assert left(fates, family) == {}, f"forbidden shapes left in IPv{family}"
        assert arrived(others) == expected[family]
        for found in (fates, others):
            judge_counts(found, family)


def arrived(fates: Fates) -> dict[str, int]:
    """How many packets of each shape."""
    return {name: fate.arrived for name, fate in fates.items()}


def the_inventory_is_counted_exactly(corpus: Corpus, text: str) -> None:
    corpus.load(text)
    for family in FAMILIES:
        attempts = sum(fate.counted.get("attempts", 0) for fate in corpus.web2(family).values())
        counts = [n for name in NAMES[family] for n in corpus.firewall.elements(name, INVENTORY[name]).values()]
        assert max(counts) == attempts > 20, f"IPv{family}"


def a_forged_source_gets_no_answer_and_no_counter_of_its_own(corpus: Corpus, text: str) -> None:
    corpus.load(text)
    for family in FAMILIES:
        fates = corpus.web2(family, OUTSIDE.addresses[family == 6])
        for name in (n for n in FLAGS if place_of(n, family) == "attempts"):
            assert fates[name] == Fate(0, {"blocked": 1, "spoofed": 1}), f"{name}, IPv{family}"
    assert all(corpus.firewall.elements(name, fields) == {} for name, fields in STRANGERS.items())


def strangers_without_room_are_still_counted(corpus: Corpus, text: str) -> None:
    corpus.load(text.replace("size 8192; flags dynamic,timeout; timeout 1h", "size 4; flags dynamic,timeout; timeout 1h"))
    prefix = {4: "198.51.100.10", 6: "2001:db8:1:{}::1"}
    before = corpus.firewall.counters()
    for family, (name, fields) in zip(FAMILIES, STRANGERS.items(), strict=True):
        for n in range(9):
            source = prefix[family].format(n) if family == 6 else f"{prefix[family]}{n}"
            [syn] = travel(corpus.world, WEB2, SHAPES[:1], family, source=source).values()
            assert syn.arrived == 0
        assert len(corpus.firewall.elements(name, fields)) == 4, "the set is full"
    after = corpus.firewall.counters()
    assert after["attempts"] - before["attempts"] == 18
    assert after["overflow"] - before["overflow"] == 10


def an_open_connection_is_cut_when_its_permission_goes(corpus: Corpus, text: str) -> None:
    corpus.load(text)
    for family, address in ((4, SOMEBODY4), (6, SOMEBODY6)):
        element = f'element inet egressguard allow{family} {{ "web" . {WEB2.addresses[family == 6]} }}'
        corpus.firewall.change(f"add {element}")
        listener = corpus.world.outside.call(socket.create_server, ("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
        client = corpus.world.web2.call(socket.create_connection, (address, 25), 5)
        server, _ = listener.accept()
        for end in (client, server):  # nothing is sent again later, which other checks would count
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with listener, client, server:
            corpus.firewall.change(f"delete {element}")
            client.sendall(b"HELO bot.example\r\n")
            server.settimeout(0.5)
            with pytest.raises(TimeoutError):
                assert server.recv(100) == b"", f"data of an open connection arrived in IPv{family}"


def a_tunnel_is_counted_as_long_as_it_lasts(corpus: Corpus, text: str) -> None:
    corpus.load(text)
    for family, kind, to in zip(FAMILIES, (socket.AF_INET, socket.AF_INET6), OUTSIDE.addresses, strict=True):
        before = corpus.firewall.counters()["tunneled"]
        host = corpus.world.web2.call(socket.socket, kind, socket.SOCK_RAW, TUNNEL)
        end = corpus.world.outside.call(socket.socket, kind, socket.SOCK_RAW, TUNNEL)
        with host, end:
            end.bind((to, 0))
            host.sendto(b"inner packet", (to, 0))
            end.sendto(b"its answer", (WEB2.addresses[family == 6], 0))  # now it is established
            for _ in range(5):
                host.sendto(b"inner packet", (to, 0))
        assert corpus.firewall.counters()["tunneled"] - before == 6, f"IPv{family}"


CHECKS: tuple[Callable[[Corpus, str], None], ...] = (
    nothing_leaves, nothing_leaves_untracked, each_is_counted, senders_lose_nothing, observing_blocks_nothing,
    a_group_that_is_observed_loses_nothing_where_the_site_enforces,
    a_group_that_is_enforced_loses_all_where_the_site_observes,
    the_inventory_is_counted_exactly, a_forged_source_gets_no_answer_and_no_counter_of_its_own,
    strangers_without_room_are_still_counted, an_open_connection_is_cut_when_its_permission_goes,
    a_tunnel_is_counted_as_long_as_it_lasts,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_corpus(corpus: Corpus, check: Callable[[Corpus, str], None]) -> None:
    check(corpus, TEXT)


WAYS = {"a site that enforces": {}, "a group that enforces on a site that observes": {"mode": "observe", "group": "enforce"}}


@both_families
@pytest.mark.parametrize("way", WAYS)
def test_there_are_enough_shapes_none_forbidden_left_and_each_is_counted(corpus: Corpus, way: str, family: int) -> None:
    corpus.load(**WAYS[way])
    fates = corpus.web2(family)
    known, counted = forbidden(family), judge_counts(fates, family)
    out = sum(left(fates, family).values())
    kept = [name for name in known if place_of(name, family) in ("kernel", "reassembly")]
    assert len(fates) >= 46
    promise(3, f"forbidden packets outside, recorded beyond the WAN interface, IPv{family}, {way}", out, 0,
            f"{len(known)} forbidden shapes of {len(fates)}")
    promise(3, f"forbidden shapes in a named counter, IPv{family}, {way}", counted, len(known) - len(kept),
            f"{len(known)} forbidden shapes; the kernel itself keeps back {len(kept)}, rules or not")
    assert out == 0
    assert counted == len(known) - len(kept)


@both_families
def test_what_the_kernel_itself_keeps_back_it_keeps_back_without_rules_too(corpus: Corpus, family: int) -> None:
    kept = {name for name, fate in corpus.free[family].items() if fate.arrived == 0}
    assert kept == {name for name in corpus.free[family] if place_of(name, family) == "kernel"}
    lost = {name for name, fate in corpus.reassembled[family].items() if fate.arrived == 0} - kept
    assert lost == {name for name in corpus.free[family] if place_of(name, family) == "reassembly"}


@both_families
def test_the_sniffer_recognises_every_shape_whose_port_can_be_read(corpus: Corpus, family: int) -> None:
    corpus.firewall.change("flush ruleset")
    readable = [shape for shape in SHAPES if family in shape.families
                and place_of(shape.name, family) in ("attempts", "blocked", "reassembly")]
    with Sniffer(corpus.world.outside, "eth0") as sniffer:
        travel(corpus.world, WEB2, readable, family)
        seen = {packet.destination for packet in sniffer.stop()}
    assert [shape.name for n, shape in enumerate(readable) if str(FIRST[family] + n) not in seen] == []


PURE_SYN = "tcp flags & (fin|syn|rst|ack) == syn jump attempt"
MUTANTS: dict[str, tuple[str, str, Callable[[Corpus, str], None]]] = {
    "without connection tracking": ("\t\tct state invalid goto oddity\n", "", senders_lose_nothing),
    "without the last line of forward": ("th dport @smtp_ports goto smtp\n\t\tgoto oddity\n",
                                         "th dport @smtp_ports goto smtp\n", nothing_leaves),
    "that asks connection tracking before the port": ("\t\tth dport & $smtp_mask == $smtp_bits goto doubtful\n", "",
                                                      an_open_connection_is_cut_when_its_permission_goes),
    "that takes what is untracked for established": ("ct state != established", "ct state { new, invalid }",
                                                     nothing_leaves_untracked),
    "that forgets a tunnel that is answered": ("\t\tmeta l4proto != tcp goto doubtful\n", "",
                                               a_tunnel_is_counted_as_long_as_it_lasts),
    "without the IPv4 fragment line": ("\t\tip frag-off & 0x1fff != 0 goto fragment\n", "", nothing_leaves_untracked),
    "without the IPv6 fragment line": ("\t\tfrag frag-off != 0 goto fragment\n", "", nothing_leaves_untracked),
    "with another mask of flags": (PURE_SYN, "tcp flags & (fin|syn) != fin jump attempt", each_is_counted),
    "without a mask of flags": (PURE_SYN, "jump attempt", each_is_counted),
    "without the inventory's counters": ("\t\tip saddr & 0.0.5.85 vmap @shard4\n", "", the_inventory_is_counted_exactly),
    "without those of IPv6": ("\t\tip6 saddr & 0:0:5:115:: vmap @shard6\n", "", the_inventory_is_counted_exactly),
    "that answers forged sources": ("chain spoof {\n\t\tcounter name spoofed\n",
                                    "chain spoof {\n\t\tcounter name spoofed\n\t\treject with tcp reset\n",
                                    a_forged_source_gets_no_answer_and_no_counter_of_its_own),
    "without the look at the source": ("\t\tfib saddr . iif oif missing goto spoof\n\t\tiifname != @inside_if", "\t\tiifname != @inside_if",
                                       a_forged_source_gets_no_answer_and_no_counter_of_its_own),
    "whose oddities forget mode observe": ("\t\tmeta nfproto @observed_family goto permit\n\t\tdrop\n", "\t\tdrop\n",
                                           observing_blocks_nothing),
    "without the groups that enforce": ("\t\tth dport . ip saddr @group_enforce4 goto refuse\n", "",
                                        a_group_that_is_enforced_loses_all_where_the_site_observes),
    "without the groups that enforce, in IPv6": ("\t\tth dport . ip6 saddr @group_enforce6 goto refuse\n", "",
                              a_group_that_is_enforced_loses_all_where_the_site_observes),
    "without the groups that observe, in IPv6": ("\t\tth dport . ip6 saddr @group_observe6 goto permit\n", "",
                                                 a_group_that_is_observed_loses_nothing_where_the_site_enforces),
    "whose oddities forget the groups": ("\t\tth dport . ip6 saddr @group_observe6 goto permit\n\t\tth dport @smtp_ports goto refuse_odd\n",
                                         "\t\tth dport @smtp_ports goto refuse_odd\n",
                                         a_group_that_is_observed_loses_nothing_where_the_site_enforces),
    **{f"that knows no group {mode} without a port, in IPv{'6' if ip6 else '4'}": (
        f"\t\tmeta nfproto . ip{ip6} saddr @{mode}_net{ip6 or 4} {verdict}\n", "", check)
       for mode, verdict, check in (("enforced", "drop", a_group_that_is_enforced_loses_all_where_the_site_observes),
                                    ("observed", "goto permit", a_group_that_is_observed_loses_nothing_where_the_site_enforces))
       for ip6 in ("", "6")},
    "without the overflow counter": ("\t\tcounter name overflow\n", "", strangers_without_room_are_still_counted),
    "that accepts what is established": ("\t\tct state invalid goto oddity\n\t\tgoto deny\n",
                                         "\t\tct state established accept\n\t\tgoto deny\n",
                                         an_open_connection_is_cut_when_its_permission_goes),
    "that reads IPv6 by its next header": ("\t\tmeta l4proto != tcp goto not_tcp\n",
                                           "\t\tmeta l4proto != tcp goto not_tcp\n\t\tip6 nexthdr != tcp accept\n",
                                           nothing_leaves),
    "without the tunnels' counter": ("counter name tunneled", "continue", each_is_counted),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_ruleset_is_noticed(corpus: Corpus, mutant: str) -> None:
    old, new, check = MUTANTS[mutant]
    chains = TEXT.index("# Nearly all packets")
    assert TEXT.count(old, chains) >= 1
    mutated = TEXT[:chains] + TEXT[chains:].replace(old, new)
    if mutant == "without connection tracking":
        mutated = mutated.replace("ct original ", "").replace("ct state != established goto", "goto").replace(
            "ct state != invalid ", "").replace(
            "\t\tct state { established, related, untracked } return\n", "")
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(corpus, mutated)
