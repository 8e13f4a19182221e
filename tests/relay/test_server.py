"""One thread serves every MTA: none of them can make another one wait, and none can use up the process."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from egressguard_milter import server as server_module
from egressguard_milter import wire
from egressguard_milter.conversation import Conversation
from egressguard_milter.limits import Limits
from egressguard_milter.log import DecisionLog
from egressguard_milter.policy import Base, Policy
from egressguard_milter.server import Server
from egressguard_milter.tallies import Tallies
from tests.relay.mta import OFFER, QUIT, answers, client, message
from tests.relay.parts import parts


class Running:
    """A server in a thread, on a port of its own and on a unix socket."""

    def __init__(self) -> None:
        self.limits: Limits = parts(Policy(limits=Base(messages=10**6))).limits
        unix = socket.socket(socket.AF_UNIX)
        unix.bind("")
        unix.listen(512)
        self.listeners = [socket.create_server(("127.0.0.1", 0)), unix]
        self.names = [listener.getsockname() for listener in self.listeners]
        reader, self._stop = socket.socketpair()
        self.server = Server(self.listeners, lambda: Conversation(self.limits, Tallies(), DecisionLog()), reader)
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()

    def connect(self, which: int = 0) -> socket.socket:
        listener = self.listeners[which]
        made = socket.socket(listener.family)
        made.settimeout(30)
        made.connect(self.names[which])
        return made

    def close(self) -> None:
        self._stop.send(bytes([15]))
        self._thread.join(30)
        self._stop.close()
        assert self.server.stopped == "SIGTERM"


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.close()


def ask(mta: socket.socket, said: bytes, expected: int) -> list[str]:
    mta.sendall(said)
    heard = b""
    while len(answers_whole(heard)) < expected and (piece := mta.recv(4096)):
        heard += piece
    return answers(heard)


def answers_whole(data: bytes) -> list[str]:
    found, at = [], 0
    while at + 4 <= len(data) and (end := at + 4 + wire.LENGTH.unpack_from(data, at)[0]) <= len(data):
        found.append(data[at + 4:end].decode(errors="replace"))
        at = end
    return found


def session(running: Running, which: int = 0) -> socket.socket:
    mta = running.connect(which)
    mta.sendall(OFFER)
    assert mta.recv(4096)[4:5] == b"O"
    assert ask(mta, client(), 1) == ["c"]
    return mta


@pytest.mark.parametrize("which", [0, 1])
def test_an_mta_is_served_and_may_leave_in_either_way(running: Running, which: int) -> None:
    for farewell in (QUIT, b""):
        with session(running, which) as mta:
            assert ask(mta, message(), 3) == ["c", "c", "c"]
            mta.sendall(farewell)
            mta.shutdown(socket.SHUT_WR)
            assert mta.recv(100) == b""
    assert running.limits.sessions == 0


def test_connections_that_stall_within_a_packet_make_nobody_wait(running: Running) -> None:
    with ExitStack() as stack:
        for cut in range(1, 200):
            stalled = stack.enter_context(running.connect(cut % 2))
            stalled.sendall((OFFER + client() + message())[:cut % 60])
        with session(running) as mta:
            assert ask(mta, message() * 20, 60) == ["c"] * 60


def test_an_mta_that_reads_no_answers_is_cut_off_and_the_others_are_served(running: Running) -> None:
    """By a unix socket: over TCP such an MTA may shut itself out first. Its kernel drops the answers that it has no
    room for, and with them every later packet, those that would let it say more among them.
    """
    with session(running) as mta, session(running, 1) as deaf:
        deaf.settimeout(60)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(2000):
                deaf.sendall(message() * 50)
        assert ask(mta, message(), 3) == ["c", "c", "c"]


def test_garbage_ends_its_own_connection_only(running: Running) -> None:
    with session(running) as mta:
        for garbage in (b"HTTP/1.1 200 OK\r\n\r\n", b"\0\0\0\0\0\0\0\0", b"\xff\xff\xff\xffc"):
            with running.connect() as other:
                other.sendall(garbage)
                assert other.recv(100) == b""
        assert ask(mta, message(), 3) == ["c", "c", "c"]


def test_without_descriptors_for_more_those_that_are_there_are_served_and_the_rest_later(running: Running) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with session(running) as mta, ExitStack() as stack:
        late = stack.enter_context(socket.socket())
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(p.name) for p in Path("/proc/self/fd").iterdir()), hard))
        try:
            late.connect(running.names[0])
            late.sendall(OFFER)
            began_s = time.process_time()
            time.sleep(0.5)
            busy_s = time.process_time() - began_s
            assert ask(mta, message(), 3) == ["c", "c", "c"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.settimeout(30)
        assert late.recv(4096)[4:5] == b"O"
    assert busy_s < 0.25, "it must not spin while it waits for descriptors"


def test_an_mta_that_is_silent_for_hours_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with session(running) as silent:
        monkeypatch.setattr(server_module, "IDLE_S", 0.5)
        assert silent.recv(100) == b""
    assert running.limits.sessions == 0


def test_what_was_said_before_a_farewell_is_answered_before_it_hangs_up(running: Running) -> None:
    with session(running) as mta:
        assert ask(mta, message() + QUIT, 4) == ["c", "c", "c"]
        assert mta.recv(100) == b""
    assert running.limits.sessions == 0


def test_many_that_speak_at_once_are_all_answered(running: Running) -> None:
    count = 3 * server_module.MOST_DUE + 1
    with ExitStack() as stack:
        mtas = [stack.enter_context(session(running)) for _ in range(count)]
        for _ in range(20):
            for mta in mtas:
                mta.sendall(message())
            assert [ask(mta, b"", 3) for mta in mtas] == [["c", "c", "c"]] * count


def test_a_connection_of_nobody_that_was_let_in_is_given_up_soon(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.limits.use(Policy(limits=Base(messages=9, open_connections=1)))
    with session(running) as mta, running.connect() as silent, running.connect() as refused:
        refused.sendall(OFFER + client())
        monkeypatch.setattr(server_module, "NOBODY_S", 0.5)
        for given_up in (silent, refused):
            while given_up.recv(4096):
                pass
        assert ask(mta, message(), 3) == ["c", "c", "c"]


def test_a_connection_that_cannot_be_taken_is_a_fault_for_a_while(running: Running) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as late:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            late.connect(running.names[0])
            deadline_s = time.monotonic() + 30
            while not running.server.fault(time.monotonic()) and time.monotonic() < deadline_s:
                time.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "cannot take a connection: Too many open files" in running.server.fault(time.monotonic())
    assert running.server.fault(time.monotonic() + server_module.RECENT_S + 1) == ""
