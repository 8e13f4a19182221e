"""Whose permission goes, whose connections go: at once, and from connection tracking too; nobody else's."""

import errno
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from egressguard.core.connections import Connection
from egressguard.kernel import Netfilter
from egressguard.kernel.conntrack import Conntrack
from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import wait_until
from lab.network import MAILSERVER, RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB1, WEB2, World
from lab.sink import Sink
from lab.syns import SynSource, Wire
from tests.promises import promise

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
both_families = pytest.mark.parametrize("family", [4, 6])
TRACKED = """
from egressguard.core.connections import Connection
from egressguard.kernel.conntrack import Conntrack
import json
seen = []
Conntrack().end([25, 587], lambda c: seen.append([c.source, c.port]))
print(json.dumps(sorted(map(list, set(map(tuple, seen))))))
"""


@pytest.fixture(autouse=True)
def sinks(fresh_world: World) -> Iterator[None]:
    with Sink(fresh_world.outside), Sink(fresh_world.outside, port=587), Sink(fresh_world.relay):
        yield


def tracked(site: Deployment) -> set[tuple[str, int]]:
    """Sources and ports of the SMTP connections that connection tracking knows."""
    found = json.loads(site.world.router.run([sys.executable, "-c", TRACKED]).stdout)
    return {(source, port) for source, port in found}


class Talk:
    """An SMTP session from one host to somebody, to be cut."""

    def __init__(self, site: Deployment, label: str, destination: str, port: int = 25) -> None:
        host = next(ns for ns in site.world.inside if ns.label == label)
        self.socket = host.call(socket.create_connection, (destination, port), 5)
        self.socket.settimeout(60)
        assert self.socket.recv(100).startswith(b"220")

    def lives(self, patience_s: float = 2.0) -> bool:
        """Whether it is answered; what must be is waited for with more patience."""
        try:
            self.socket.settimeout(patience_s)
            self.socket.sendall(b"NOOP\r\n")
            return self.socket.recv(100).startswith(b"250")
        except OSError as error:
            assert isinstance(error, TimeoutError) or error.errno in (errno.ECONNRESET, errno.EPIPE)
            return False

    def close(self) -> None:
        self.socket.close()


def say(site: Deployment, *arguments: str) -> None:
    done = site.egressguard(*arguments)
    assert done.returncode == 0, done.stderr


def gone(site: Deployment, *addresses: str) -> None:
    wait_until(lambda: not {source for source, port in tracked(site) if port == 25} & set(addresses),
               "the entries' end", timeout_s=60)


@both_families
def test_a_quarantine_cuts_the_hosts_connections_and_nobody_elses(site: Deployment, family: int) -> None:
    site.start_router()
    say(site, "allow", WEB1.ipv4, "--for", "1h", "--reason", "a test")
    say(site, "allow", WEB2.ipv4, "--for", "1h", "--reason", "a test")
    relay = RELAY.addresses[family == 6]
    cut = [Talk(site, "web2", SOMEBODY[family]), Talk(site, "web2", relay)]
    kept = [Talk(site, "web1", SOMEBODY[family]), Talk(site, "web2", SOMEBODY[family], 587), Talk(site, "mailserver", SOMEBODY[family])]
    web2 = WEB2.addresses[family == 6]
    assert (web2, 25) in tracked(site)
    say(site, "quarantine", WEB2.ipv4, "--for", "10m", "--reason", "it spams")
    assert not any(talk.lives() for talk in cut)
    assert all(talk.lives(60) for talk in kept)
    gone(site, web2)
    assert {(web2, 587), (WEB1.addresses[family == 6], 25), (MAILSERVER.addresses[family == 6], 25)} <= tracked(site)
    for talk in cut + kept:
        talk.close()


@both_families
def test_an_exception_that_ends_by_itself_takes_its_connections_along(site: Deployment, family: int) -> None:
    site.start_router()
    say(site, "allow", WEB2.ipv4, "--for", "3s", "--reason", "a test")
    talk = Talk(site, "web2", SOMEBODY[family])
    gone(site, WEB2.addresses[family == 6])
    assert not talk.lives()
    talk.close()


@both_families
def test_a_sender_that_is_removed_and_a_mode_that_tightens_cut_too(site: Deployment, family: int) -> None:
    site.write_router_config("observe")
    router = site.start_router()
    talks = [Talk(site, "web1", SOMEBODY[family]), Talk(site, "mailserver", SOMEBODY[family]), Talk(site, "relay", SOMEBODY[family])]
    site.write_router_config("enforce")
    text = site.router_config.read_text()
    site.router_config.write_text(text.replace('[[sender]]\nname = "mailserver"', '[[host]]\nname = "mailserver"'))
    router.send_signal(signal.SIGHUP)
    gone(site, WEB1.addresses[family == 6], MAILSERVER.addresses[family == 6])
    assert [talk.lives(2 if talk is not talks[2] else 60) for talk in talks] == [False, False, True]
    assert (RELAY.addresses[family == 6], 25) in tracked(site)
    for talk in talks:
        talk.close()


def test_a_daemon_that_may_not_or_cannot_says_so_and_enforces(site: Deployment) -> None:
    """The same answers that a kernel without the interface, or without the capability, gives."""
    from tests.netns.test_promises_foreign import start_changed

    start_changed(site, "from egressguard.kernel.conntrack import Conntrack\nConntrack.subsystem = 63")
    wait_until(lambda: site.status()[0] == 2, "a degraded status")
    _, status = site.status()
    assert any("were not ended: reading the tracked connections" in f["text"] for f in status["findings"])
    assert status["mode"] == "enforce"


@both_families
def test_refused_attempts_of_addresses_that_do_not_answer_are_no_connections_that_passed(site: Deployment, family: int) -> None:
    site.start_router()
    unused = "198.51.100.64/27" if family == 4 else "2001:db8:0:12::40/123"
    SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[unused], count=32, per_second=300,
              destinations=[SOMEBODY[family]]).wait()
    wait_until(lambda: bool(tracked(site)), "entries, which resets leave when nobody takes them", timeout_s=60)
    site.world.router.run(["nft", "flush", "ruleset"])
    wait_until(lambda: "the table was gone" in site.egressguard("history").stdout, "the repair", timeout_s=60)
    assert "passed and were ended" not in site.egressguard("history").stdout
    wait_until(lambda: not tracked(site), "their end: they are no permission for another table", timeout_s=60)


def test_without_capabilities_the_reason_is_named(site: Deployment) -> None:
    done = subprocess.run(
        ["nsenter", f"--net={site.world.router.path}", "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
         sys.executable, "-c", "from egressguard.kernel.conntrack import Conntrack as C; C().end([25], bool)"],
        text=True, capture_output=True, check=False)
    assert "reading the tracked connections: not permitted: this needs CAP_NET_ADMIN" in done.stderr


def cut_after_s(site: Deployment, *program: str) -> float:
    """From the quarantine's standing in the kernel to the end of the host's tracked connections: at most ten
    seconds are waited for. `program` is what orders the quarantine.
    """
    kernel, conntrack = site.world.router.call(Netfilter), site.world.router.call(Conntrack)
    ordering = site.world.router.popen([*program, "quarantine", "web2", "--for", "10m", "--reason", "it spams",
                                        "--config", str(site.router_config)], stdout=subprocess.DEVNULL)
    sources: set[str] = set()

    def seen(connection: Connection) -> bool:
        sources.add(connection.source)
        return False

    stood_s, deadline_s = None, time.monotonic() + 60
    while time.monotonic() < deadline_s and (stood_s is None or time.monotonic() < stood_s + 10):
        if stood_s is None and kernel.leases()["quarantine4"]:
            stood_s = time.monotonic()
        sources.clear()
        conntrack.end([25], seen)
        if stood_s is not None and not sources & set(WEB2.addresses):
            break
        time.sleep(0.005)
    assert stood_s is not None, "no quarantine"
    took_s = time.monotonic() - stood_s
    assert ordering.wait(30) == 0
    kernel.close()
    conntrack.close()
    return took_s


@both_families
def test_a_quarantine_ends_what_is_open_within_a_second(site: Deployment, family: int) -> None:
    site.start_router()
    talks = [Talk(site, "web2", RELAY.addresses[family == 6]) for _ in range(20)]
    took_s = cut_after_s(site, str(PROGRAMS / "egressguard"))
    assert took_s <= 1.0
    assert not any(talk.lives() for talk in talks[:2])
    promise(10, f"from a quarantine to the end of the host's tracked connections, IPv{family}", f"{1000 * took_s:.0f} ms", "≤ 1 s",
            f"{len(talks)} connections to the relay")
    for talk in talks:
        talk.close()


def test_mutant_a_quarantine_that_leaves_connection_tracking_alone_is_noticed(site: Deployment) -> None:
    """Without a daemon, which is no mutant and may be the first to apply the order."""
    daemon = site.start_router()
    daemon.terminate()
    daemon.wait(30)
    mutant = site.folder / "egressguard-mutant"
    mutant.write_text(f"#!{sys.executable}\nfrom egressguard.cli import main\nfrom egressguard.cutting import Cutting\n"
                      "Cutting.after = lambda self, changes, settings: None\nmain()\n")
    mutant.chmod(0o755)
    with closing(Talk(site, "web2", RELAY.ipv4)):
        assert cut_after_s(site, str(mutant)) > 1.0
