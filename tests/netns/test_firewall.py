"""The firewall's policy on real packets, in both families: groups, ports, exceptions, quarantine, answers, MACs,
the router's own connections, and the commands that change them."""

import errno
import json
import os
import pwd
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lab.deployment import Deployment
from lab.headers import Flow, ip, tcp
from lab.namespaces import Namespace, wait_until
from lab.network import RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB1, WEB2, Place, World
from lab.packets import ACK, FIN, RST, SYN
from lab.sink import Sink
from lab.sniffer import Sniffer
from lab.syns import SynSource, Wire

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
OTHER = {4: "203.0.113.200", 6: "2001:db8:ffff::200"}
WEB1_NETWORK = {4: f"{WEB1.ipv4}/32", 6: "2001:db8:0:11::/64"}

both_families = pytest.mark.parametrize("family", [4, 6])


def address(place: Place, family: int) -> str:
    return place.ipv4 if family == 4 else place.ipv6


def outcome(destination: str, port: int = 25, timeout_s: float = 2.0) -> int:
    """0 for a connection, otherwise the errno of why not."""
    try:
        socket.create_connection((destination, port), timeout=timeout_s).close()
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.fixture
def sink(fresh_world: World) -> Iterator[Sink]:
    with Sink(fresh_world.outside) as listening:
        yield listening


@pytest.fixture
def submission(fresh_world: World) -> Iterator[Sink]:
    with Sink(fresh_world.outside, port=587) as listening:
        yield listening


def attempts(site: Deployment, place: Place) -> int:
    hosts = json.loads(site.egressguard("hosts", "--json").stdout)
    return int(hosts[place.ipv4]["attempts"]) if place.ipv4 in hosts else 0


def say(site: Deployment, *arguments: str) -> str:
    done = site.egressguard(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@both_families
def test_a_group_observes_while_the_site_enforces(site: Deployment, sink: Sink, family: int) -> None:
    site.amend("", f'[[group]]\nname = "new"\nnetworks = ["{WEB1_NETWORK[family]}"]\nmode = "observe"')
    site.start_router()
    assert site.world.web1.call(outcome, SOMEBODY[family]) == 0
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    assert (attempts(site, WEB1), attempts(site, WEB2)) == (1, 1)
    listed = json.loads(say(site, "hosts", "--would-block", "--json"))
    assert {host["name"] for host in listed.values()} == {"web1", "web2"}


@both_families
def test_a_group_enforces_while_the_site_observes(site: Deployment, sink: Sink, family: int) -> None:
    site.write_router_config("observe")
    site.amend("", f'[[group]]\nname = "strict"\nnetworks = ["{WEB1_NETWORK[family]}"]\nmode = "enforce"')
    site.start_router()
    assert site.world.web1.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    assert site.world.web2.call(outcome, SOMEBODY[family]) == 0
    assert (attempts(site, WEB1), attempts(site, WEB2)) == (1, 1)


@both_families
@pytest.mark.parametrize("port", [465, 587, 2525])
@pytest.mark.parametrize(("key", "result", "counts"), [
    ("also_block", errno.ECONNREFUSED, (1, 0)), ("also_count", 0, (0, 1))])
def test_other_ports_concern_the_groups_that_name_them(
        site: Deployment, family: int, port: int, key: str, result: int, counts: tuple[int, int]) -> None:
    site.amend("", f'[[group]]\nname = "g"\nnetworks = ["{WEB1_NETWORK[family]}"]\n{key} = [{port}]')
    site.start_router()
    with Sink(site.world.outside, port=port):
        assert site.world.web1.call(outcome, SOMEBODY[family], port) == result
        assert site.world.web2.call(outcome, SOMEBODY[family], port) == 0
    hosts = json.loads(say(site, "hosts", "--json"))
    assert [(hosts[p.ipv4]["attempts"], hosts[p.ipv4]["counted_only"]) for p in (WEB1, WEB2)] == [counts, (0, 0)]


@both_families
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_further_ports_are_shut_for_everybody_but_senders(site: Deployment, family: int, mode: str) -> None:
    site.write_router_config(mode)
    site.amend("router =", "ports = [25, 465, 587, 2525]\nrouter =")
    site.start_router()
    for port in (465, 587, 2525):
        with Sink(site.world.outside, port=port):
            assert site.world.web2.call(outcome, SOMEBODY[family], port) == (errno.ECONNREFUSED if mode == "enforce" else 0)
            assert site.world.relay.call(outcome, SOMEBODY[family], port) == 0
            assert site.world.web2.call(outcome, SOMEBODY[family], port + 1) == errno.ECONNREFUSED, "nobody listens there"
    assert attempts(site, WEB2) == 3
    assert set(json.loads(say(site, "hosts", "--would-block", "--json"))) == {WEB2.ipv4}


def strays(site: Deployment, place: Place, family: int, port: int) -> int:
    """How many of four packets without a connection get out: SYN, SYN-ACK, FIN, RST."""
    flow = Flow(ip_address(address(place, family)), ip_address(SOMEBODY[family]), 40_000, port)
    head = bytes.fromhex((ROUTER_MAC[place.segment] + place.mac).replace(":", "")) + (b"\x08\x00" if family == 4 else b"\x86\xdd")
    frames = [head + ip(flow, tcp(replace(flow, source_port=40_000 + n), flags))
              for n, flags in enumerate((SYN, SYN | ACK, FIN | ACK, RST))]
    with Sniffer(site.world.outside, "eth0", ports=(port,), direction="in") as arrived:
        getattr(site.world, place.name).call(throw, frames)
        found = arrived.stop()
    return len([p for p in found if p.source == address(place, family) and p.destination_port == port and p.source_port >= 40_000])


def throw(frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("eth0", 0))
        for frame in frames:
            wire.send(frame)


@both_families
def test_what_belongs_to_no_connection_follows_the_groups_too(site: Deployment, family: int) -> None:
    site.amend("", f'[[group]]\nname = "new"\nnetworks = ["{WEB1_NETWORK[family]}"]\nmode = "observe"\nalso_count = [587]')
    router = site.start_router()
    assert strays(site, WEB1, family, 25) == 4, "its group observes"
    assert strays(site, WEB2, family, 25) == 0
    assert strays(site, WEB1, family, 587) == 4, "only counted"
    assert strays(site, WEB2, family, 587) == 4, "another group's port"
    site.write_router_config("observe")
    site.amend("", f'[[group]]\nname = "strict"\nnetworks = ["{WEB1_NETWORK[family]}"]\nmode = "enforce"')
    os.kill(router.pid, signal.SIGHUP)
    wait_until(lambda: site.status()[1]["mode"] == "observe", "mode observe")
    assert strays(site, WEB1, family, 25) == 0, "its group enforces"
    assert strays(site, WEB2, family, 25) == 4


@both_families
def test_switching_modes_under_way_loses_no_count(site: Deployment, sink: Sink, family: int) -> None:
    router = site.start_router()
    source = SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]),
                       sources=[address(WEB2, family)], destinations=[SOMEBODY[family]], count=20_000, per_second=5000)
    done = threading.Event()

    def switch() -> None:
        mode = "enforce"
        while not done.is_set():
            mode = "observe" if mode == "enforce" else "enforce"
            site.write_router_config(mode)
            router.send_signal(signal.SIGHUP)
            time.sleep(0.1)

    switcher = threading.Thread(target=switch)
    switcher.start()
    try:
        sent = source.wait()
    finally:
        done.set()
        switcher.join()
    wait_until(lambda: attempts(site, WEB2) == sent, f"{sent} attempts")


@both_families
@pytest.mark.parametrize(("answer", "result"), [
    ("reset", {errno.ECONNREFUSED}), ("drop", {errno.ETIMEDOUT}),
    ("prohibit", {errno.EHOSTUNREACH, errno.EACCES})])
def test_the_blocked_client_gets_the_configured_answer(
        site: Deployment, sink: Sink, family: int, answer: str, result: set[int]) -> None:
    site.amend("router =", f'answer = "{answer}"\nrouter =')
    site.start_router()
    assert site.world.web2.call(outcome, SOMEBODY[family], 25, 3.0) in result
    assert attempts(site, WEB2) >= 1


@both_families
def test_resets_are_limited_and_then_it_is_silence(site: Deployment, family: int) -> None:
    site.start_router()
    with Sniffer(site.world.web2, "eth0", ports=range(1024, 65536), direction="in") as answers:
        sent = SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[address(WEB2, family)],
                         destinations=[SOMEBODY[family]], count=10_000).wait()
        resets = len(answers.stop())
    assert 500 <= resets < sent / 2
    assert attempts(site, WEB2) == sent


@both_families
def test_an_exception_opens_one_host_for_a_time_and_ends_by_itself(
        site: Deployment, sink: Sink, family: int) -> None:
    router = site.start_router()
    say(site, "allow", address(WEB1, family), "--for", "5s", "--reason", "a migration")
    router.terminate()
    router.wait(60)
    assert site.world.web1.call(outcome, SOMEBODY[family]) == 0
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    wait_until(lambda: site.world.web1.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED, "the end of the exception")


@both_families
def test_an_exception_can_be_for_one_destination(site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    say(site, "allow", address(WEB1, family), "--to", SOMEBODY[family], "--for", "10m", "--reason", "a smarthost")
    assert site.world.web1.call(outcome, SOMEBODY[family]) == 0
    assert site.world.web1.call(outcome, OTHER[family]) == errno.ECONNREFUSED
    assert "exception to" in site.egressguard("status").stdout
    say(site, "release", address(WEB1, family), "--reason", "done")
    assert site.world.web1.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED


@both_families
def test_quarantine_closes_the_relay_too_and_cuts_what_is_open(site: Deployment, family: int) -> None:
    site.start_router()
    with Sink(site.world.relay):
        talk = site.world.web2.call(socket.create_connection, (address(RELAY, family), 25), 5)
        with talk:
            talk.settimeout(60)
            assert talk.recv(100).startswith(b"220")
            say(site, "quarantine", WEB2.ipv4, "--for", "10m", "--reason", "it spams")
            talk.settimeout(1)
            talk.sendall(b"HELO x\r\n")
            with pytest.raises((TimeoutError, ConnectionError)):
                assert talk.recv(100)
        assert site.world.web2.call(outcome, address(RELAY, family)) == errno.ECONNREFUSED
        assert site.world.web1.call(outcome, address(RELAY, family)) == 0
        assert site.status()[1]["totals"]["quarantined"] >= 2
        say(site, "release", address(WEB2, family), "--reason", "cleaned")
        assert site.world.web2.call(outcome, address(RELAY, family)) == 0


@pytest.mark.parametrize(("address", "why"), [
    ("198.51.100.1", "this machine's own address"), ("198.51.100.0", "which no host has"), ("198.51.100.255", "which no host has")])
@pytest.mark.parametrize("verb", ["quarantine", "allow"])
def test_no_order_is_about_an_address_that_no_host_has(site: Deployment, verb: str, address: str, why: str) -> None:
    say(site, "apply")
    refused = site.egressguard(verb, address, "--for", "10m", "--reason", "x")
    assert (refused.returncode, why in refused.stderr) == (4, True)
    assert site.status()[1]["orders"] == []


def test_the_end_of_an_order_stands_in_history_as_its_beginning_does(site: Deployment) -> None:
    site.start_router()
    say(site, "open", "--for", "2s", "--reason", "an emergency")
    wait_until(lambda: "open: its time is over" in " ".join(say(site, "history").split()), "the end", timeout_s=60)
    assert [e["kind"] for e in json.loads(say(site, "history", "--json")) if "an emergency" in (e["why"] or "")] == ["open", "end"]


@both_families
def test_a_sender_that_is_configured_behind_another_interface_is_told(site: Deployment, family: int) -> None:
    text = site.router_config.read_text()
    site.router_config.write_text(text.replace('["dmz"]', '["X"]').replace('["web"]', '["dmz"]').replace('["X"]', '["web"]'))
    site.start_router()
    assert site.status()[1]["findings"] == []

    def told() -> bool:
        site.world.relay.call(outcome, SOMEBODY[family])
        return "relay (" in str(site.status()[1]["findings"])

    wait_until(told, "the finding", timeout_s=60)
    assert site.status()[0] == 2
    assert "sender's place" in site.egressguard("doctor").stdout


def test_quarantine_never_hits_a_sender_and_is_capped(site: Deployment) -> None:
    site.start_router()
    refused = site.egressguard("quarantine", RELAY.ipv6, "--for", "10m", "--reason", "x")
    assert (refused.returncode, "never quarantined" in refused.stderr) == (4, True)
    for n in (21, 22, 23):
        say(site, "quarantine", f"198.51.100.{n}", "--for", "10m", "--reason", "x")
    refused = site.egressguard("quarantine", "198.51.100.24", "--for", "10m", "--reason", "x")
    assert (refused.returncode, "the most is 3" in refused.stderr) == (4, True)


def test_of_a_large_inventory_a_tenth_can_be_quarantined(site: Deployment) -> None:
    site.amend("", "".join(f'[[host]]\nname = "h{n}"\naddresses = ["198.51.100.{100 + n}"]\n' for n in range(48)))
    site.start_router()
    for n in range(5):
        say(site, "quarantine", f"h{n}", "--for", "10m", "--reason", "x")
    refused = site.egressguard("quarantine", "h5", "--for", "10m", "--reason", "x")
    assert (refused.returncode, "the most is 5" in refused.stderr) == (4, True)
    assert sum("quarantine" in order for order in site.status()[1]["orders"]) == 5


def test_a_sender_in_the_quarantine_set_passes_all_the_same(site: Deployment, sink: Sink) -> None:
    site.start_router().kill()
    site.world.router.run(["nft", "add element inet egressguard quarantine4 { 192.0.2.10 timeout 1h }"])
    assert site.world.relay.call(outcome, SOMEBODY4) == 0


@both_families
def test_a_flush_does_not_end_an_order(site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    say(site, "allow", address(WEB1, family), "--for", "10m", "--reason", "a migration")
    site.world.router.run(["nft", "flush", "ruleset"])
    wait_until(lambda: site.status()[0] == 0, "the repair")
    assert site.world.web1.call(outcome, SOMEBODY[family]) == 0


@both_families
def test_open_is_loud_counted_and_ends_by_itself(site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    say(site, "open", "--for", "6s", "--reason", "the relay burns")
    assert site.world.web2.call(outcome, SOMEBODY[family]) == 0
    code, status = site.status()
    assert (code, status["mode"]) == (3, "opened")
    assert "operator has opened port 25" in status["findings"][0]["text"]
    assert attempts(site, WEB2) == 1
    wait_until(lambda: site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED, "the end of the opening")
    assert site.status()[0] == 0
    assert "the relay burns" in site.egressguard("history").stdout


def test_release_without_a_host_shuts_port_25_again(site: Deployment, sink: Sink) -> None:
    site.start_router()
    say(site, "open", "--for", "1h", "--reason", "the relay burns")
    say(site, "release", "--reason", "it does not")
    assert site.world.web2.call(outcome, SOMEBODY4) == errno.ECONNREFUSED


@pytest.mark.parametrize(("arguments", "words"), [
    (["allow", "203.0.113.9", "--for", "1h", "--reason", "x"], "lies behind no inside interface"),
    (["allow", "198.51.100.11", "--for", "1 hour", "--reason", "x"], "write a time such as"),
    (["allow", "198.51.100.11", "--for", "0s", "--reason", "x"], "above 0"),
    (["allow", "198.51.100.11", "--for", "1h", "--reason", " "], "no reason"),
    (["allow", "web9", "--for", "1h", "--reason", "x"], "web9"),
    (["allow", "198.51.100.11", "--to", "mx.example", "--for", "1h", "--reason", "x"], "is no address"),
    (["release", "198.51.100.11", "--reason", "x"], "no order stands"),
    (["open", "--for", "1h"], "--reason"),
])
def test_an_order_that_makes_no_sense_is_refused_and_changes_nothing(
        site: Deployment, arguments: list[str], words: str) -> None:
    site.start_router()
    before = site.world.router.run(["nft", "list", "ruleset"]).stdout
    done = site.egressguard(*arguments)
    assert done.returncode == 4
    assert words in done.stderr
    assert site.world.router.run(["nft", "list", "ruleset"]).stdout == before


@both_families
def test_a_sender_tied_to_a_mac_is_worth_nothing_behind_another(site: Deployment, sink: Sink, family: int) -> None:
    site.amend('name = "relay"', f'name = "relay"\nmac = "{RELAY.mac}"')
    site.start_router()
    assert site.world.relay.call(outcome, SOMEBODY[family]) == 0
    with Sniffer(site.world.outside, "eth0", direction="in") as arrived:
        SynSource(site.world.mailserver, Wire("eth0", "00:00:5e:00:53:99", ROUTER_MAC["dmz"]),
                  sources=[address(RELAY, family)], destinations=[SOMEBODY[family]], count=5).wait()
        # The relay's own connection may end meanwhile, with a reset.
        assert [packet for packet in arrived.stop() if packet.flags == SYN] == []


@both_families
def test_an_address_with_two_macs_is_reported(site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    wire = Wire("eth0", "00:00:5e:00:53:99", ROUTER_MAC["web"])
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    SynSource(site.world.web1, wire, sources=[address(WEB2, family)], destinations=[SOMEBODY[family]], count=1).wait()
    site.world.relay.call(outcome, SOMEBODY[family])
    SynSource(site.world.mailserver, Wire("eth0", "00:00:5e:00:53:99", ROUTER_MAC["dmz"]),
              sources=[address(RELAY, family)], destinations=[SOMEBODY[family]], count=1).wait()
    code, status = site.status()
    assert code == 2
    texts = " ".join(f["text"] for f in status["findings"])
    assert "may be framing it" in texts
    assert f"connections in the name of sender {address(RELAY, family)} came from MAC 00:00:5e:00:53:99" in texts


@both_families
def test_the_routers_own_users_are_judged_when_guarded(site: Deployment, sink: Sink, family: int) -> None:
    own, other = pwd.getpwnam("games"), pwd.getpwnam("news")
    site.amend("", '[own]\nguard = true\nusers = ["games"]')
    site.start_router()
    assert as_user(site.world.router, own.pw_uid, SOMEBODY[family]) == 0
    assert as_user(site.world.router, other.pw_uid, SOMEBODY[family]) != 0
    assert site.status()[1]["totals"]["attempts"] >= 1


@both_families
def test_an_own_mta_loses_no_packet_of_its_closing_connections(site: Deployment, sink: Sink, family: int) -> None:
    """Orphaned sockets have no user any more; their FINs must pass."""
    site.amend("", '[own]\nguard = true\nusers = ["games"]')
    site.start_router()
    uid = pwd.getpwnam("games").pw_uid
    with Sniffer(site.world.router, "wan", direction="both") as wire:
        for _ in range(20):
            assert as_user(site.world.router, uid, SOMEBODY[family]) == 0
        wait_until(lambda: sum(bool(p.flags & 1) for p in wire.packets()) >= 20, "20 FINs of the router")
        wire.stop()
    assert site.status()[1]["totals"]["blocked"] == 0


def as_user(host: Namespace, uid: int, destination: str) -> int:
    # The greeting is read, or close() would send a reset; then the socket is an orphan with a FIN to send.
    program = f"import socket; s = socket.create_connection(({destination!r}, 25), timeout=3); s.settimeout(60); s.recv(99); s.close()"
    return subprocess.run(["nsenter", f"--net={host.path}", "setpriv", f"--reuid={uid}", "--clear-groups",
                           "/usr/bin/python3", "-c", program], check=False, stderr=subprocess.DEVNULL, cwd="/").returncode


def test_plan_prints_what_apply_does_and_nothing_when_nothing_differs(site: Deployment) -> None:
    first = say(site, "plan")
    assert first.startswith("include ")
    assert "add element inet egressguard inside_if" in first
    assert site.world.router.run(["nft", "list", "ruleset"]).stdout == ""
    say(site, "apply")
    assert say(site, "plan") == ""
    site.amend(RELAY.ipv4, "192.0.2.11")
    planned = say(site, "plan")
    assert planned == ('delete element inet egressguard allow4 { "dmz" . 192.0.2.10 }\n'
                       'add element inet egressguard allow4 { "dmz" . 192.0.2.11 }\n')
    before = site.world.router.run(["nft", "-s", "list", "ruleset"]).stdout
    site.world.router.run(["nft", "-f", "-"], stdin=planned)
    by_hand = site.world.router.run(["nft", "-s", "list", "ruleset"]).stdout
    assert before != by_hand
    say(site, "apply")
    assert site.world.router.run(["nft", "-s", "list", "ruleset"]).stdout == by_hand


@pytest.mark.parametrize(("more", "says"), [
    ("permitted_mark = 16", "0x00000010"), ("ports = [25, 2525]", "th dport & 0xf63b"),
    ('answer = "redirect"\nredirect.relays = ["192.0.2.10", "2001:db8:0:a::2"]', "redirect"),
])
def test_a_plan_holds_the_rules_where_the_configuration_changes_them(site: Deployment, more: str, says: str) -> None:
    say(site, "apply")
    site.amend('mode = "enforce"', f'mode = "enforce"\n{more}')
    planned = say(site, "plan")
    assert says in planned
    assert "chain egress_forward {" in planned
    site.world.router.run(["nft", "-c", "-f", "-"], stdin=planned)
    assert say(site, "plan") == planned, "looking changes nothing"
    site.world.router.run(["nft", "-f", "-"], stdin=planned)
    by_hand = site.world.router.run(["nft", "-s", "list", "ruleset"]).stdout
    assert say(site, "plan") == ""
    say(site, "apply")
    assert site.world.router.run(["nft", "-s", "list", "ruleset"]).stdout == by_hand


def test_mutant_a_plan_of_elements_alone_is_noticed(site: Deployment) -> None:
    site.change = ("from egressguard.loading import Loading as L; from egressguard.core import plan\n"
                   "L.planned = lambda self, now_s: plan.transaction(self._changes(now_s), self._rules.table)")
    with pytest.raises(AssertionError):
        test_a_plan_holds_the_rules_where_the_configuration_changes_them(site, "permitted_mark = 16", "0x00000010")


@both_families
def test_what_stands_before_the_rules_is_cut_when_they_come(site: Deployment, family: int) -> None:
    """A connection from before the rules is not grandfathered."""
    with Sink(site.world.outside):
        talk = site.world.web2.call(socket.create_connection, (SOMEBODY[family], 25), 5)
        with talk:
            talk.settimeout(60)
            assert talk.recv(100).startswith(b"220")
            site.start_router()
            talk.settimeout(1)
            with suppress(OSError):
                talk.sendall(b"HELO x\r\n")
            with pytest.raises((TimeoutError, ConnectionError)):
                assert talk.recv(100)


@both_families
def test_behind_masquerade_and_dnat_the_host_is_still_itself(site: Deployment, sink: Sink, family: int) -> None:
    ip = "ip" if family == 4 else "ip6"
    site.world.router.run(["nft", "-f", "-"], stdin=f"""
        table {ip} site {{
            chain post {{ type nat hook postrouting priority srcnat; oifname "wan" masquerade; }}
            chain pre {{ type nat hook prerouting priority dstnat; {ip} daddr {OTHER[family]} tcp dport 2525 dnat to {
                SOMEBODY4 + ":25" if family == 4 else "[" + SOMEBODY6 + "]:25"}; }}
        }}""")
    site.start_router()
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    assert site.world.web2.call(outcome, OTHER[family], 2525) == errno.ECONNREFUSED, "the port after DNAT decides"
    assert attempts(site, WEB2) == 2
    assert site.world.relay.call(outcome, SOMEBODY[family]) == 0


@pytest.mark.parametrize("harm", [
    "flush ruleset", "delete table inet egressguard", "flush chain inet egressguard refuse",
    "insert rule inet egressguard egress_forward accept", "add table inet egressguard { flags dormant; }",
    "flush set inet egressguard allow4", "add element inet egressguard observed_family { ipv4 }",
    "delete element inet egressguard blocked_ports { 25 }",
    "add element inet egressguard exception4 { \"web\" . 198.51.100.12 timeout 1h }",
])
def test_another_tools_change_is_repaired_and_recorded_with_its_program(site: Deployment, harm: str) -> None:
    site.start_router()
    site.world.router.run(["nft", harm])
    kind = "repair" if "allow4" in harm else "exposure"  # a sender less lets nothing more through
    wait_until(lambda: kind in site.egressguard("history").stdout, "what happened in history")
    [found] = [e for e in json.loads(site.egressguard("history", "--json").stdout) if e["kind"] == kind]
    assert "by nft (pid " in found["why"]
    assert site.status()[0] == 0
    assert say(site, "plan") == ""


def test_changes_to_other_tables_are_none_of_our_business(site: Deployment) -> None:
    site.start_router()
    site.world.router.run(["nft", "add table inet other; add chain inet other c { type filter hook forward priority 0; }"])
    time.sleep(1)
    assert "exposure" not in site.egressguard("history").stdout
    assert site.status()[0] == 0
