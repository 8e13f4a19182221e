"""The control socket answers root and its own user, one line for one line, and nobody can keep it busy."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egressguard.core.documents import Bulletin, Origin
from egressguard.core.errors import ConfigError, Mistake
from egressguard.core.hosts import Host
from egressguard.core.verdict import State
from egressguard_milter import shown
from egressguard_milter.answers import Answers
from egressguard_milter.control import Control, ControlError, ask
from egressguard_milter.places import REST
from egressguard_milter.policy import Base, ClientRule, KeyRates, Policy, Rates
from egressguard_milter.reports import Reports
from egressguard_milter.requests import encode_request
from egressguard_milter.signals import Signals
from tests.relay.parts import Parts, parts, send

HOST = Host("192.0.2.1")
SHARED = ClientRule(match=("192.0.2.0/24",), shared=Rates(messages=9))


class Running:
    """A control socket over a relay without an MTA."""

    def __init__(self, folder: Path) -> None:
        self.policy: Policy | ConfigError = Policy(limits=Base(messages=3), client=(SHARED,))
        self.parts: Parts = parts(self.policy, {HOST: State.SUSPECT})
        self.fault = ""
        self.path = folder / "control"
        self.signals = Signals()
        answers = Answers(self.parts.limits, self.parts.ledger, self.parts.tallies, self.signals, self._read,
                          lambda _: [self.fault])
        self.control = Control(self.path, answers.answer)
        self.control.start()

    def _read(self) -> Policy:
        if isinstance(self.policy, ConfigError):
            raise self.policy
        return self.policy

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        return ask(self.path, encode_request(command, **fields))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.control.close()


def test_status_says_what_is_wrong(running: Running) -> None:
    assert running.ask("status")["healthy"]
    running.fault = "counts are not durable: no room"
    assert running.ask("status")["faults"] == [running.fault]
    assert "DEGRADED" in shown.status(running.ask("status"))


def test_explain_says_every_limit_its_use_and_where_it_is_from(running: Running) -> None:
    assert send(running.parts.session(), 9, time.monotonic()) == 1
    answer = running.ask("explain", client="192.0.2.1")
    assert answer["limits"] == [
        {"limit": "messages", "used": 1, "most": 1, "window_s": 600.0, "source": "limits"},
        {"limit": "recipients", "used": 1, "most": 15, "window_s": 600.0, "source": "limits, 10 for each message"},
        {"limit": "refused_recipients", "used": 0, "most": 10, "window_s": 600.0, "source": "limits"}]
    assert (answer["tier"], answer["verdict"], answer["known"]) == ("tightened", "suspect", True)
    assert list(answer["shared"]) == ["clients 192.0.2.0/24"]
    text = shown.explain(answer)
    assert "192.0.2.1: tightened (verdict suspect), named in the policy" in text


def test_explain_says_which_router_calls_the_client_what_and_why(running: Running) -> None:
    now_s = time.monotonic()
    long = "x" * 255
    running.signals.receive([
        Bulletin(Origin("r1", 1, 1), 30.0, {HOST: State.SUSPECT}, {HOST: "misrouted MTA"}),
        Bulletin(Origin("r2", 1, 1), 30.0, {HOST: State.COMPROMISED}, {HOST: "spam\x1b[31mbot" + long}),
        Bulletin(Origin("r3", 1, 1), 30.0, {Host("192.0.2.9"): State.COMPROMISED}, {HOST: "prober"}),
        Bulletin(Origin("r4", 1, 1), 1e-9, {HOST: State.COMPROMISED}, {HOST: "lapsed"}),
        *(Bulletin(Origin(f"s{n:03}", 1, 1), 30.0, {HOST: State.SUSPECT}) for n in range(100)),
    ], now_s)
    running.signals.evaluate(now_s)
    answer = running.ask("explain", client="192.0.2.1")
    assert [t["router"] for t in answer["told"]] == ["r2", "r1", "s000", "s001", "s002", "s003", "s004", "s005"]
    text = shown.explain(answer)
    assert "suspect says r1: looks like a misrouted MTA" in text
    assert "compromised says r2: looks like a spam?[31mbot" in text
    assert not any(word in text for word in ("lapsed", "prober", "x" * 41))
    assert all(len(row) <= 120 for row in text.splitlines())


def test_clients_are_listed_with_the_last_one_first(running: Running) -> None:
    for n in range(5):
        send(running.parts.session(f"203.0.113.{n}"), 1)
    rows = running.ask("clients", count=2)["clients"]
    assert [row["client"] for row in rows] == ["203.0.113.4", "203.0.113.3"]
    assert shown.clients({"clients": rows}).splitlines()[1].split()[:4] == ["203.0.113.4", "normal", "3", "1"]


def test_a_client_that_a_rule_names_by_name_or_by_one_of_its_addresses_is_shown_with_its_own_limit(
        running: Running) -> None:
    running.parts.limits.use(Policy(client=(ClientRule(match=("2001:db8::10",), messages=1000),
                                            ClientRule(match=("web.example.org",), messages=500))))
    for address, name in (("2001:db8::10", ""), ("192.0.2.9", "web.example.org"), ("192.0.2.8", "")):
        send(running.parts.session(address, name), 1)
    expected = {"2001:db8::/64": 1000, "192.0.2.9": 500, "192.0.2.8": 40}
    assert {row["client"]: row["limit"] for row in running.ask("clients")["clients"]} == expected
    reports = Reports(1, running.parts.limits, running.parts.tallies, running.signals)
    assert {host: client.limit for host, client in reports.make(0.0).clients.items()} == expected


def test_explain_says_how_much_of_a_key_is_used(running: Running) -> None:
    running.parts.limits.use(Policy(client=(SHARED,), sender_limits=KeyRates(messages=7), login_limits=KeyRates(messages=8)))
    send(running.parts.session(), 2, time.monotonic(), login="Bob")
    for key, most in (("sender A@inside.example", 7), ("login bob", 8), ("clients 192.0.2.0/24", 9)):
        answer = running.ask("explain", client=key)
        assert [(row["used"], row["most"]) for row in answer["limits"]] == [(2, most)]
        assert f"messages 2 of {most} in 600 s" in shown.explain(answer)
    assert running.ask("explain", client="group none")["limits"] == []


def test_explain_finds_the_rule_of_the_name_with_which_a_client_was_last_here(running: Running) -> None:
    running.parts.limits.use(Policy(client=(ClientRule(match=("web.example.org",), messages=500),)))
    send(running.parts.session("192.0.2.9", "web.example.org"), 1)
    assert running.ask("explain", client="192.0.2.9")["limits"][0]["most"] == 500
    assert running.ask("explain", client="192.0.2.9", name="other.example.org")["limits"][0]["most"] == 40


def test_explain_says_which_account_pays(running: Running) -> None:
    running.parts.limits.use(Policy(limits=Base(messages=2), max_clients=1, client=(ClientRule(match=("2001:db8::10",)),)))
    for address in ("203.0.113.1", "198.51.100.1", "2001:db8::10"):
        send(running.parts.session(address, now_s=time.monotonic()), 2, time.monotonic())
    assert running.ask("explain", client="203.0.113.1")["key"] == "203.0.113.1"
    answer = running.ask("explain", client="198.51.100.7")
    assert (answer["key"], answer["limits"][0]["used"]) == ("network 198.51.100.0/24", 2)
    assert "counted as network 198.51.100.0/24" in shown.explain(answer)
    assert "2001:db8::/64: normal (verdict clean), named in the policy\n  counted as 2001:db8::10\n" \
        in shown.explain(running.ask("explain", client="2001:db8::10"))


@pytest.mark.parametrize("command", ["explain", "forgive"])
@pytest.mark.parametrize("network", ["192.0.2.0/24", "192.0.2.1/32", "2001:db8::/32", "2001:db8::1/64"])
def test_a_network_is_not_taken_for_its_first_address(running: Running, command: str, network: str) -> None:
    with pytest.raises(ControlError, match="is a network and no client"):
        running.ask(command, client=network)
    assert running.ask(command, client="2001:db8::/64")["client"] == "2001:db8::/64"


def test_forgive_takes_an_address_or_a_key_of_the_log(running: Running) -> None:
    send(running.parts.session("203.0.113.1"), 9)
    assert send(running.parts.session("203.0.113.1"), 9) == 0
    assert running.ask("forgive", client="203.0.113.1") == {"client": "203.0.113.1", "forgiven": True}
    assert send(running.parts.session("203.0.113.1"), 9) == 3
    assert not running.ask("forgive", client="sender a@x.example")["forgiven"]


@pytest.mark.parametrize("key", [
    "sender a@x.example", "senders @x.example", "login bob", "group web", "clients 192.0.2.0/24", "network 192.0.2.0/24",
    "known network 192.0.2.0/24", "unaddressed", *REST.values()])
def test_every_key_that_the_log_can_name_can_be_explained_and_forgiven(running: Running, key: str) -> None:
    assert [running.ask(command, client=key)["client"] for command in ("explain", "forgive")] == [key, key]


def test_a_bad_reload_keeps_the_old_policy_and_status_says_so_until_a_good_one(running: Running) -> None:
    running.policy = ConfigError("/etc/x.toml", [Mistake("limits.messages", "is wrong")])
    with pytest.raises(ControlError, match=r"limits\.messages: is wrong\nthe old policy holds"):
        running.ask("reload")
    assert running.parts.messages("203.0.113.1") == 3
    assert not running.ask("status")["healthy"]
    running.policy = Policy(limits=Base(messages=5), relay="other", relays=3, exchange_key="/x")
    for _ in range(2):
        assert running.ask("reload") == {"reloaded": True, "at_next_start": ["relay", "exchange_key", "relays"]}
    assert running.ask("status")["relay"] == Reports(1, running.parts.limits, running.parts.tallies,
                                                     running.signals).make(0.0).origin.name == "relay"
    assert running.parts.messages("203.0.113.1") == 5
    assert running.ask("status")["healthy"]


@pytest.mark.parametrize("request_line", [b"", b"\n", b"{}\n", b"[]\n", b"nonsense\n", b"x" * 10_000, b"{" * 4096 + b"\n"])
def test_a_bad_request_is_answered_with_what_would_be_right(running: Running, request_line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(running.path))
        caller.sendall(request_line)
        caller.shutdown(socket.SHUT_WR)
        try:
            assert "error" in json.loads(caller.recv(10_000))
        except ConnectionResetError:  # it need not read on to hang up on more than a request can be
            assert len(request_line) > 4096
    assert running.ask("status")["healthy"]


def test_a_caller_that_says_nothing_does_not_stop_others(running: Running) -> None:
    silent = []
    for _ in range(2):
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(str(running.path))
        silent.append(caller)
    assert running.ask("status")["healthy"]
    for caller in silent:
        caller.close()


ASK_AS_NOBODY = """
import os, socket, sys
caller = socket.socket(socket.AF_UNIX)
os.setgid(65534); os.setuid(65534)
try:
    caller.connect(sys.argv[1])
    caller.sendall(b'{"command": "status"}\\n')
    print(caller.recv(1000).decode())
except PermissionError:
    print("no way in")
except ConnectionError:
    print("hung up")
"""


def test_nobody_else_may_ask_even_if_the_socket_can_be_reached(running: Running) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test becomes another user: run it as root")

    def answer() -> str:
        return subprocess.run([sys.executable, "-c", ASK_AS_NOBODY, running.path], text=True, capture_output=True,
                              check=True, timeout=60).stdout.strip()
    assert answer() == "no way in"
    for folder in (running.path, *running.path.parents):
        if "pytest-of" in str(folder):
            folder.chmod(0o777)
    assert answer() in ("hung up", json.dumps({"error": "only root and the daemon's own user may ask"}))


def test_without_a_milter_the_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no milter answers at"):
        ask(tmp_path / "absent", b"{}\n")


def test_what_a_client_wrote_cannot_move_the_cursor() -> None:
    assert "\x1b" not in shown.forgive({"client": "sender \x1b[2J@x", "forgiven": True})
