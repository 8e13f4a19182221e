"""egressguard on a hypervisor: virtual machines on a bridge are blocked, counted and judged like routed hosts, whatever
bridge-nf-call-iptables says; what stands in the bridge's table is compared, repaired and shown like the router's."""

import errno
import json
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.bridged import BridgedDeployment
from lab.hypervisor import Hypervisor
from lab.namespaces import Namespace, wait_until
from lab.network import ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB1, WEB2, answers
from lab.sink import Sink
from lab.sniffer import Sniffer
from lab.syns import SynSource, Wire
from tests.netns.test_firewall import both_families, outcome
from tests.promises import promise

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
OTHERS = {4: [f"203.0.113.{n}" for n in range(140, 152)], 6: [f"2001:db8:ffff::{n}" for n in range(140, 152)]}
both_calls = pytest.mark.parametrize("calls", [0, 1])


@pytest.fixture
def hypervisor(root: None) -> Iterator[Hypervisor]:
    with Hypervisor() as built:
        yield built


@pytest.fixture
def site(hypervisor: Hypervisor, tmp_path: Path) -> BridgedDeployment:
    return BridgedDeployment(hypervisor, tmp_path)


@pytest.fixture
def sink(hypervisor: Hypervisor) -> Iterator[Sink]:
    with Sink(hypervisor.outside) as listening:
        yield listening


def attempts(site: BridgedDeployment) -> int:
    hosts = json.loads(site.egressguard("hosts", "--json").stdout)
    return int(hosts[WEB2.ipv4]["attempts"])


def say(site: BridgedDeployment, *arguments: str) -> str:
    done = site.egressguard(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return str(done.stdout)


def nft(site: BridgedDeployment, *commands: str) -> None:
    site.world.router.run(["nft", "-f", "-"], stdin="\n".join(commands))


def blocked(host: Namespace, family: int) -> bool:
    return host.call(outcome, SOMEBODY[family], 25, 0.5) == errno.ETIMEDOUT


@both_families
@both_calls
def test_a_sender_passes_and_another_machine_is_blocked_and_counted_exactly(
        site: BridgedDeployment, sink: Sink, family: int, calls: int) -> None:
    site.hypervisor.bridge_calls(calls)
    site.start_router()
    assert site.world.web1.call(outcome, SOMEBODY[family]) == 0
    source = SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[WEB2.addresses[family == 6]],
                       destinations=[SOMEBODY[family]], count=1000, per_second=2000)
    with Sniffer(site.world.outside, "eth0") as wire:
        assert source.wait() == 1000
        assert [packet for packet in wire.stop() if packet.source_mac == WEB2.mac] == []
    assert attempts(site) == 1000
    promise(3, f"attempts counted of 1,000 across a bridge, IPv{family}, bridge-nf-call-iptables {calls}", attempts(site), 1000, "1,000 SYNs")
    code, status = site.status()
    assert (code, status["mode"], status["beside"]["bridge"]["rules_intact"]) == (1 if status["hosts"][WEB2.ipv4]["verdict"] == "compromised" else 0,
                                                                                 "enforce", True)
    assert status["beside"]["bridge"]["ports"] == ["vnet1", "vnet2"]
    assert status["totals"]["attempts"] == 0, "counted once, by the bridge's table"


@both_families
def test_everything_else_passes_at_any_size(site: BridgedDeployment, family: int) -> None:
    """Large segments as the kernel hands them on, several megabytes of them."""
    site.start_router()
    size = 4 << 20
    server = site.world.outside.call(socket.create_server, ("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)

    def send() -> None:
        with socket.create_connection((SOMEBODY[family], 8080), timeout=60) as connection:
            connection.sendall(bytes(size))

    sender = threading.Thread(target=lambda: site.world.web2.call(send))
    sender.start()
    with server:
        server.settimeout(60)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            got = 0
            while data := connection.recv(1 << 20):
                got += len(data)
    sender.join()
    assert got == size


@both_families
@both_calls
def test_observing_counts_once_and_blocks_nothing(site: BridgedDeployment, sink: Sink, family: int, calls: int) -> None:
    site.hypervisor.bridge_calls(calls)
    site.write_router_config("observe")
    site.start_router()
    assert site.world.web2.call(outcome, SOMEBODY[family]) == 0
    assert attempts(site) == 1
    assert site.status()[1]["totals"]["attempts"] == 0


@both_families
def test_an_exception_and_a_quarantine_hold_on_the_bridge(site: BridgedDeployment, sink: Sink, family: int) -> None:
    site.start_router()
    say(site, "allow", WEB2.ipv4, "--for", "60s", "--reason", "a test")
    assert site.world.web2.call(outcome, SOMEBODY[family]) == 0
    say(site, "release", WEB2.ipv4, "--reason", "over")
    assert blocked(site.world.web2, family)
    assert site.world.web2.call(answers, WEB1.addresses[family == 6], 25)
    say(site, "quarantine", WEB2.ipv4, "--for", "60s", "--reason", "a test")
    assert not site.world.web2.call(answers, WEB1.addresses[family == 6], 25)


@both_families
def test_a_machine_that_tries_many_destinations_is_compromised(site: BridgedDeployment, family: int) -> None:
    site.start_router()
    for destination in OTHERS[family]:
        source = SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[WEB2.addresses[family == 6]],
                           destinations=[destination], count=1)
        assert source.wait() == 1
    wait_until(lambda: site.status()[0] == 1, "the verdict")
    assert site.status()[1]["hosts"][WEB2.ipv4]["verdict"] == "compromised"


def test_attempts_are_counted_once_over_a_restart_and_a_new_table(site: BridgedDeployment) -> None:
    """The verdict's attempts come from the database; the kernel's counters go on while nobody looks."""
    router = site.start_router()
    for number, destination in enumerate(OTHERS[4]):
        if number == 5:
            router.send_signal(signal.SIGKILL)
            router.wait()
        SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[WEB2.ipv4], destinations=[destination], count=1).wait()
    site.start_router()
    wait_until(lambda: verdict_attempts(site) == len(OTHERS[4]), "every attempt once")
    nft(site, "delete table bridge egressguard")
    wait_until(lambda: site.status()[0] == 1, "the table to be back")
    SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[WEB2.ipv4], destinations=[SOMEBODY4], count=1).wait()
    wait_until(lambda: verdict_attempts(site) == len(OTHERS[4]) + 1, "a new table counts from zero")


def verdict_attempts(site: BridgedDeployment) -> int:
    with sqlite3.connect(site.folder / "router.db") as database:
        row = database.execute("SELECT attempts FROM verdict WHERE host = ?", (WEB2.ipv4,)).fetchone()
    database.close()
    return int(row[0]) if row else 0


@pytest.mark.parametrize("harm", [
    "delete table bridge egressguard", "flush chain bridge egressguard oddity", "flush ruleset",
    "insert rule bridge egressguard egress_bridge accept", "add table bridge egressguard { flags dormant; }",
    'add element bridge egressguard allow4 { "vnet2" . 198.51.100.12 }', "delete element bridge egressguard smtp_ports { 25 }",
])
def test_what_somebody_does_to_the_bridges_table_is_put_right_and_recorded(site: BridgedDeployment, sink: Sink, harm: str) -> None:
    site.start_router()
    nft(site, harm)
    wait_until(lambda: any("bridge: " in line["why"] and "by nft" in line["why"] for line in exposures(site)), "the exposure")
    assert site.status()[0] == 0
    assert blocked(site.world.web2, 4)


def exposures(site: BridgedDeployment) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = json.loads(say(site, "history", "--json"))
    return [line for line in listed if line["kind"] == "exposure"]


WHILE_DEAD = {
    'add element bridge egressguard allow4 { "vnet2" . 198.51.100.12 }': "bridge: set elements were changed while no daemon ran",
    "delete element netdev egressguard blocked_ports { 25 }": "netdev: set elements were changed while no daemon ran",
    "insert rule bridge egressguard egress_bridge accept": "bridge: the table was edited while no daemon ran",
}


def an_edit_while_no_daemon_runs_is_told(site: BridgedDeployment, harm: str) -> None:
    site.amend("", '[last_line]\ninterfaces = ["uplink"]')
    daemon = site.start_router()
    daemon.terminate()
    daemon.wait(30)
    nft(site, harm)
    site.start_router()
    wait_until(lambda: site.status()[0] == 0, "all to be right")
    assert [line["why"].partition(", by")[0] for line in exposures(site)] == [WHILE_DEAD[harm]]


@pytest.mark.parametrize("harm", WHILE_DEAD)
def test_an_edit_of_the_tables_beside_while_no_daemon_runs_is_an_exposure_too(site: BridgedDeployment, harm: str) -> None:
    an_edit_while_no_daemon_runs_is_told(site, harm)


@pytest.mark.parametrize("harm", list(WHILE_DEAD)[:2])
def test_mutant_a_start_that_compares_the_routers_elements_alone_is_noticed(site: BridgedDeployment, harm: str) -> None:
    site.change = ("import egressguard.unwatched as u; from egressguard.core.tables import ROUTER; f = u._others_elements\n"
                   "u._others_elements = lambda kept, now_s, former: f(kept, now_s, former) if kept.table is ROUTER else ()")
    with pytest.raises(AssertionError):
        an_edit_while_no_daemon_runs_is_told(site, harm)


def test_machines_that_come_and_go_while_no_daemon_runs_are_nobodys_harm(site: BridgedDeployment) -> None:
    daemon = site.start_router()
    daemon.terminate()
    daemon.wait(30)
    router = site.hypervisor.router
    router.ip("link set vnet1 nomaster", "link set vnet2 nomaster", "link set vnet2 down", "link set vnet2 name vnet7",
              "link set vnet7 up", "link set vnet7 master br0")
    site.start_router()
    assert exposures(site) == []


def test_without_the_daemon_status_says_that_frames_pass_unjudged(site: BridgedDeployment) -> None:
    router = site.start_router()
    router.terminate()
    router.wait()
    assert site.status()[0] == 2
    nft(site, "delete table bridge egressguard")
    code, status = site.status()
    assert (code, status["mode"]) == (3, "unknown")
    assert "table bridge egressguard is not in the kernel" in str(status["findings"])
    assert "table bridge egressguard is not in the kernel" in " ".join(site.egressguard("doctor").stdout.split())
    assert "bridge.nft" in say(site, "plan")
    say(site, "apply")
    assert site.status()[0] == 2
    assert say(site, "plan") == ""
    assert blocked(site.world.web2, 4)


def test_a_machine_that_is_plugged_in_later_is_known_soon_and_judged_at_once(site: BridgedDeployment, sink: Sink) -> None:
    site.start_router()
    hypervisor = site.hypervisor.router
    hypervisor.ip("link set vnet2 nomaster", "link set vnet2 down", "link set vnet2 name vnet7", "link set vnet7 up",
                  "link set vnet7 master br0")
    assert blocked(site.world.web2, 4), "a port that nobody has named leads outside, and is no sender's"
    wait_until(lambda: site.status()[1]["beside"]["bridge"]["ports"] == ["vnet1", "vnet7"], "the new port")
    assert blocked(site.world.web2, 6)
    assert exposures(site) == [], "an interface that came is nobody's harm"


def test_another_bridge_is_left_alone(site: BridgedDeployment) -> None:
    site.hypervisor.bridge_calls(0)
    router = site.hypervisor.router
    router.ip("link add br1 type bridge forward_delay 0 mcast_snooping 0", "link set br1 up")
    with Namespace("alice") as alice, Namespace("bob") as bob:
        for number, container in enumerate((alice, bob)):
            container.link("eth0", router, f"veth{number}", f"00:00:5e:00:53:c{number}")
            router.ip(f"link set veth{number} master br1")
            container.ip(f"address add 192.0.2.{number + 1}/24 dev eth0", f"address add 2001:db8:9::{number + 1}/64 dev eth0 nodad")
        site.start_router()
        assert alice.call(answers, "192.0.2.2", 25)
        assert alice.call(answers, "2001:db8:9::2", 25)
