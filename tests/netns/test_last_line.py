"""The last line on the way out: what no other rule has let pass does not leave, from wherever it came; what they let
pass does. Without it the same frames leave."""

import socket
import struct
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from lab.bridged import BridgedDeployment
from lab.deployment import Deployment
from lab.firewall import RULES
from lab.headers import Flow, ip, tcp
from lab.hypervisor import UPLINK, Hypervisor
from lab.mail import send
from lab.namespaces import Namespace, wait_until
from lab.network import OUTSIDE, ROUTER_MAC, SOMEBODY4, SOMEBODY6
from lab.packets import IPV4, IPV6, SYN
from lab.sink import Sink
from lab.sniffer import Sniffer
from tests.netns.test_firewall import both_families, outcome

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
OURS = {4: OUTSIDE.ipv4_gateway, 6: OUTSIDE.ipv6_gateway}  # the router's own addresses


def frame(family: int, source: str, destination: str = "") -> bytes:
    """A SYN to port 25 as a raw socket writes it, past every inet hook."""
    flow = Flow(ip_address(source), ip_address(destination or SOMEBODY[family]), 12345)
    head = bytes.fromhex((OUTSIDE.mac + ROUTER_MAC["wan"]).replace(":", ""))
    return head + struct.pack("!H", IPV4 if family == 4 else IPV6) + ip(flow, tcp(flow))


def throw(interface: str, data: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((interface, 0))
        with suppress(OSError):  # "no buffer space" is how a packet socket learns of a drop
            raw.send(data)


def thrown_out(site: Deployment, family: int, interface: str = "wan") -> int:
    """How many of one raw SYN arrived outside."""
    with Sniffer(site.world.outside, "eth0") as wire:
        site.world.router.call(throw, interface, frame(family, OURS[family]))
        return len(wire.stop())


def with_last_line(site: Deployment, *interfaces: str) -> None:
    names = ", ".join(f'"{name}"' for name in interfaces)
    site.amend("", f"[last_line]\ninterfaces = [{names}]")


@both_families
@pytest.mark.parametrize("stands", [True, False])
def test_a_raw_frame_leaves_only_where_there_is_no_last_line(site: Deployment, family: int, stands: bool) -> None:
    if stands:
        with_last_line(site, "wan")
    site.start_router()
    assert thrown_out(site, family) == (0 if stands else 1)
    code, status = site.status()
    if stands:
        assert status["beside"]["netdev"]["totals"]["stray"] == 1
        assert (code, "something leads around the rules" in str(status["findings"])) == (2, True)


@both_families
def test_what_the_rules_let_pass_passes_the_last_line_to_the_last_packet(site: Deployment, family: int) -> None:
    with_last_line(site, "wan")
    site.amend('[last_line]', '[own]\nguard = true\nusers = ["nobody"]\n[last_line]')
    site.start_router()
    with Sink(site.world.outside) as sink:
        reply = send(site.world.relay, SOMEBODY[family], recipients=["x@example.net"], subject="hello")
        assert reply.accepted
        sink.wait_for(1)
        assert site.status()[0] == 0
        own = site.world.router.run(["setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/python3", "-c",
                                     f"import socket; socket.create_connection(({SOMEBODY[family]!r}, 25), 3).close()"])
        assert own.returncode == 0
        assert site.status()[1]["beside"]["netdev"]["totals"]["stray"] == 0


@both_families
def test_without_a_guard_this_machines_own_mail_passes(site: Deployment, family: int) -> None:
    with_last_line(site, "wan")
    site.start_router()
    with Sink(site.world.outside):
        assert site.world.router.call(outcome, SOMEBODY[family]) == 0


@both_families
@pytest.mark.parametrize("stands", [True, False])
def test_it_holds_while_somebody_has_opened_the_rules(site: Deployment, family: int, stands: bool) -> None:
    """The daemon, which would put them right at once, is not there."""
    if stands:
        with_last_line(site, "wan")
    router = site.start_router()
    router.terminate()
    router.wait()
    site.world.router.run(["nft", "insert rule inet egressguard egress_forward accept"])
    with Sink(site.world.outside), Sniffer(site.world.outside, "eth0") as wire:
        site.world.web2.call(outcome, SOMEBODY[family], 25, 0.5)
        assert bool(wire.stop()) is not stands


def test_an_interface_that_comes_later_is_waited_for(site: Deployment) -> None:
    with_last_line(site, "lte0")
    site.start_router()
    code, status = site.status()
    assert (code, "the last line waits for lte0" in str(status["findings"])) == (2, True)
    site.world.router.ip("link set wan name lte0")  # as a device that is plugged in: it has that name from now on
    wait_until(lambda: site.status()[0] == 0, "the last line on lte0")
    assert thrown_out(site, 4, "lte0") == 0
    assert site.status()[1]["beside"]["netdev"]["devices"] == ["lte0"]


@pytest.mark.parametrize("harm", ["delete table netdev egressguard", "flush chain netdev egressguard stray",
                                  "delete element netdev egressguard blocked_ports { 25 }"])
def test_it_is_put_right(site: Deployment, harm: str) -> None:
    with_last_line(site, "wan")
    site.start_router()
    site.world.router.run(["nft", harm])
    wait_until(lambda: "netdev: " in site.egressguard("history").stdout, "the repair")
    assert thrown_out(site, 6) == 0


@both_families
def test_what_a_bridge_lets_pass_passes_its_uplinks_last_line(root: None, tmp_path: Path, family: int) -> None:
    with Hypervisor() as hypervisor:
        site = BridgedDeployment(hypervisor, tmp_path)
        with_last_line(site, UPLINK)
        site.start_router()
        with Sink(hypervisor.outside):
            assert hypervisor.web1.call(outcome, SOMEBODY[family]) == 0
        assert thrown_out(site, family, UPLINK) == 0


def test_the_marks_bit_is_the_configured_one(site: Deployment) -> None:
    """Whoever uses ours for something else takes another; the old one opens nothing then."""
    with_last_line(site, "wan")
    site.amend("[[inside]]", "permitted_mark = 0x10000000\n\n[[inside]]")
    site.start_router()
    text = site.world.router.run(["nft", "list", "ruleset"]).stdout
    assert "0x02000000" not in text
    with Sink(site.world.outside):
        assert site.world.relay.call(outcome, SOMEBODY4) == 0
    assert site.status()[0] == 0


MARK = 0x02000000
OTHER_MAC = "\t\tth dport @blocked_ports oifname != @any_mac oifname . ether saddr != @own_mac goto stray\n"


def marked(destination: str) -> None:
    """A connection of a container that has CAP_NET_RAW, with the mark of what the rules have let pass."""
    kind = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as made, suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        made.settimeout(1)
        made.connect((destination, 25))


@both_families
@pytest.mark.parametrize("defended", [True, False])
def test_a_macvlan_with_the_mark_leaves_only_where_no_mac_is_asked_for(site: Deployment, family: int, defended: bool) -> None:
    for name in ("egressguard.nft", "bridge.nft", "last_line.nft"):
        text = RULES.with_name(name).read_text("utf-8")
        assert name != "last_line.nft" or OTHER_MAC in text
        (site.folder / name).write_text(text if defended else text.replace(OTHER_MAC, ""))
    site.amend('rules = ""', f'rules = "{site.folder}"')
    with_last_line(site, "wan")
    site.start_router()
    with Namespace("container") as container:
        site.world.router.ip("link add mv0 link wan type macvlan mode bridge", f"link set mv0 netns {container.name}")
        container.ip("link set mv0 up", "address add 203.0.113.7/28 dev mv0", "address add 2001:db8:fffe::7/64 dev mv0 nodad",
                     f"route add {SOMEBODY4} via {OUTSIDE.ipv4} onlink dev mv0", f"route add {SOMEBODY6} via {OUTSIDE.ipv6} onlink dev mv0")
        with Sink(site.world.outside), Sniffer(site.world.outside, "eth0", direction="in") as wire:
            container.call(marked, SOMEBODY[family])
            assert bool([p for p in wire.stop() if p.flags == SYN]) is not defended
        assert bool(site.status()[1]["beside"]["netdev"]["totals"]["stray"]) is defended


@both_families
def test_a_mac_that_changes_is_known_soon_and_nothing_foreign_passes_meanwhile(site: Deployment, family: int) -> None:
    with_last_line(site, "wan")
    site.start_router()
    with Sink(site.world.outside):
        assert site.world.relay.call(outcome, SOMEBODY[family]) == 0
        site.world.router.ip("link set wan address 00:00:5e:00:53:ef")
        site.world.outside.ip(*(f"neighbour replace {address} dev eth0 lladdr 00:00:5e:00:53:ef" for address in OURS.values()))
        wait_until(lambda: site.world.relay.call(outcome, SOMEBODY[family], 25, 1.0) == 0, "the new MAC")
    assert site.egressguard("plan").stdout == ""
