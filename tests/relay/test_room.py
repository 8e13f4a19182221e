"""One client that opens whatever it can leaves descriptors for the others, for the counts and for the exchange."""

import json
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egressguard.core.documents import Bulletin, Origin
from egressguard.core.hosts import Host
from egressguard.core.verdict import State
from egressguard.exchange import open_exchange
from egressguard_milter import room as room_module
from egressguard_milter import wire
from egressguard_milter.policy import Policy
from egressguard_milter.room import Room
from lab.namespaces import wait_until
from tests.relay.mta import OFFER, client, message
from tests.relay.running import COMMAND

FILES = 1024  # what a unit without LimitNOFILE= gets


class Bounded:
    """A milter that may open `FILES` files, on a unix socket, and MTAs that speak with it."""

    def __init__(self, folder: Path, hard: int) -> None:
        self.folder = folder
        self._config, self._socket = folder / "policy.toml", folder / "milter.sock"
        self._config.write_text(f'socket = "unix:{self._socket}"\nexchange = "sqlite:{folder}/exchange.db"\n'
                                f'state = "{folder}/state"\nmetrics = ""\n')
        self.log = folder / "stderr"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([COMMAND, "run", "--config", self._config], stderr=log,
                                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard)))
        wait_until(lambda: "event=started" in self.log.read_text(), "the milter")

    def connect(self, said: bytes, answers: int) -> socket.socket:
        """A connection that says so much; OSError or EOFError when it is not answered."""
        mta = socket.socket(socket.AF_UNIX)
        try:
            mta.connect(str(self._socket))  # waits while the queue of the listener is full: with a timeout it would not
            mta.settimeout(20)
            self.say(mta, said, answers)
        except BaseException:
            mta.close()
            raise
        return mta

    def say(self, mta: socket.socket, said: bytes, answers: int) -> str:
        mta.sendall(said)
        heard = b""
        for _ in range(answers):
            length = wire.LENGTH.unpack(self._read(mta, 4))[0]
            heard += self._read(mta, length)[:1]
        return heard.decode()

    @staticmethod
    def _read(mta: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = mta.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def status(self) -> dict[str, Any]:
        done = subprocess.run([COMMAND, "status", "--json", "--config", self._config], capture_output=True, text=True,
                              timeout=60)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def serves_others(self) -> bool:
        """Whether a message of another client passes."""
        with self.connect(OFFER + client("192.0.2.2"), 2) as mta:
            return self.say(mta, message(), 3) == "ccc"


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Bounded]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = Bounded(tmp_path, FILES)
    yield made
    made.process.kill()
    made.process.wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_that_opens_all_it_can_leaves_room_for_others_and_for_files(bounded: Bounded) -> None:
    with ExitStack() as held:
        for _ in range(FILES + 200):
            held.enter_context(bounded.connect(OFFER + client("192.0.2.66"), 2))
        assert bounded.serves_others()
        exchange = open_exchange(f"sqlite:{bounded.folder}/exchange.db")
        exchange.publish(Bulletin(Origin("router", 1, 1), 60.0, {Host("192.0.2.66"): State.COMPROMISED}))
        exchange.close()
        wait_until(lambda: "router" in (bounded.folder / "state/marks.json").read_text(), "the marks")
        status = bounded.status()
    assert 0 < status["sessions"] < status["max_sessions"] / 2
    assert status["max_sessions"] < FILES
    assert "room for" in status["room"]
    assert "event=connections_bounded" in bounded.log.read_text()


def test_connections_without_a_client_leave_room_and_status_says_that_they_are_many(bounded: Bounded) -> None:
    for said, answers in ((b"", 0), (OFFER, 1)):
        with ExitStack() as held:
            for _ in range(FILES + 200):
                held.enter_context(bounded.connect(said, answers))
            assert bounded.serves_others()
            status = bounded.status()
            assert not status["healthy"]
            assert status["faults"] == ["too many connections without a client that was let in: the oldest go"]


def test_many_clients_that_fill_all_there_is_are_a_fault(bounded: Bounded) -> None:
    with ExitStack() as held:
        for n in range(bounded.status()["max_sessions"]):
            held.enter_context(bounded.connect(OFFER + client(f"198.51.100.{n % 250}"), 2))
        mta = held.enter_context(bounded.connect(OFFER, 1))
        assert bounded.say(mta, client("192.0.2.2"), 1) == "y"
        assert "max_sessions" in bounded.status()["faults"][0]


def test_a_soft_limit_is_raised_as_far_as_it_may_be(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    made = Bounded(tmp_path, hard)
    try:
        limits = Path(f"/proc/{made.process.pid}/limits").read_text().split("Max open files")[1].split()
        assert int(limits[0]) > FILES
    finally:
        made.process.kill()
        made.process.wait()


@pytest.mark.parametrize(("soft", "hard", "wanted", "fits"), [
    (1024, 1024, 20000, False), (1024, 65536, 20000, True), (1024, 1024, 500, True), (64, 64, 500, False),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 20000, True)])
def test_caps_fit_what_the_kernel_gives(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int,
                                        fits: bool) -> None:
    given = [soft]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (given[0], hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: given.append(given.pop() and both[0]))
    room, policy = Room(), Policy(max_sessions=wanted, max_sessions_per_client=wanted)
    fitted = room.fitted(policy)
    assert (fitted.max_sessions == wanted) is fits is (not room.fault)
    assert 1 <= fitted.max_sessions_per_client <= max(1, fitted.max_sessions // 2)
    if given[0] != resource.RLIM_INFINITY and given[0] > room_module.FILES + room_module.LEAST_WAITING:
        assert fitted.max_sessions + room.waiting + room_module.FILES <= given[0]


def test_where_the_limit_may_not_be_raised_there_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 65536))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    room = Room()
    fitted = room.fitted(Policy())
    assert replace(fitted, max_sessions=Policy().max_sessions) == Policy()
    assert "1024 files" in room.fault
