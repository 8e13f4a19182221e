"""Between an MTA and a milter: passes the protocol's packets on, and breaks what it is told to break.

A packet is a length (4 bytes, network order), a command letter and data. The proxy also keeps the only
honest count of permissions: how many messages the milter let pass at their end, as the MTA was told.
"""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from lab.namespaces import Namespace

Kind = Literal["kill", "stop", "cut", "half", "garble", "slow", "refuse"]
KINDS: tuple[Kind, ...] = ("kill", "stop", "cut", "half", "garble", "slow", "refuse")

# The commands of an MTA, in the order of a session: negotiation, connect, helo, mail, rcpt, data, end of
# message, abort, quit. What a milter negotiated away is never seen.
STEPS = "OCHMRTEAQ"
END_OF_MESSAGE = "E"
PERMISSIONS = b"ca"  # continue and accept, as an answer to the end of a message
REFUSED_S = 0.7
LARGEST = 1 << 20

# None of these is an answer: a proxy that turned one valid answer into another would be a milter of its own.
GARBAGE: tuple[bytes, ...] = (
    b"\x00\x00\x00\x01\xff",
    b"\x00\x00\x00\x01?",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xffcccccccc",
    b"\x00\x00\x00\x05O\x00\x00\x00",
    b"HTTP/1.1 200 OK\r\n\r\n",
)

# An answer, though with a code that is none: sendmail reads it as a refusal for good, whatever F= says.
MALFORMED_REPLY = b"\x00\x00\x00\x0dyxyz garbage\x00"


@dataclass(frozen=True)
class Fault:
    """What goes wrong; `act` is done to the milter first (a signal, say), `delay_s` holds a slow answer.

    `garbage` is what a garbled answer becomes.
    """

    kind: Kind
    delay_s: float = 0.0
    garbage: tuple[bytes, ...] = GARBAGE
    act: Callable[[], None] = lambda: None


class MilterProxy:
    """Listens on `port` of a namespace, in front of the milter on `milter_port`, until close()."""

    def __init__(self, namespace: Namespace, port: int, milter_port: int) -> None:
        self._namespace, self._port, self._milter_port = namespace, port, milter_port
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._left: Counter[str] = Counter()
        self._random = random.Random(1)
        self.seen: Counter[str] = Counter()
        self.hits: Counter[tuple[Kind, str]] = Counter()
        self.permissions = 0
        self._closed = False
        self._listener = self._listen()
        threading.Thread(target=self._accept, name="milter-proxy", daemon=True).start()

    def arm(self, fault: Fault, hits_per_step: int) -> None:
        """From now on each connection meets `fault` once, at its first step that still lacks a hit."""
        with self._lock:
            self._fault, self._left = fault, Counter(dict.fromkeys(STEPS, hits_per_step))

    def disarm(self) -> None:
        """Breaks nothing any more."""
        with self._lock:
            self._fault = None

    def close(self) -> None:
        """Listens no more; connections end with their peers."""
        self._closed = True
        _shut(self._listener)

    def _listen(self) -> socket.socket:
        def listen() -> socket.socket:
            return socket.create_server(("127.0.0.1", self._port), backlog=512)
        return self._namespace.call(listen)

    def _accept(self) -> None:
        while not self._closed:
            try:
                mta, _ = self._listener.accept()
            except OSError:
                time.sleep(0.02)  # refusing, for now
                continue
            threading.Thread(target=self._serve, args=(mta,), daemon=True).start()

    def _serve(self, mta: socket.socket) -> None:
        try:
            milter = self._namespace.call(socket.create_connection, ("127.0.0.1", self._milter_port), 10.0)
        except OSError:
            _shut(mta)
            return
        milter.settimeout(None)
        _Connection(self, mta, milter).run()

    def take(self, step: str) -> Fault | None:
        """The fault to do now, if one is left for this step."""
        with self._lock:
            if self._fault is None or self._left[step] <= 0:
                return None
            self._left[step] -= 1
            self.hits[self._fault.kind, step] += 1
            return self._fault

    def garbage(self, fault: Fault) -> bytes:
        """Something that is no answer."""
        with self._lock:
            return self._random.choice(fault.garbage)

    def permit(self) -> None:
        """The MTA is being told that a message may pass."""
        with self._lock:
            self.permissions += 1

    def refuse(self) -> None:
        """Nobody listens for a while."""
        with self._lock:
            _shut(self._listener)
        time.sleep(REFUSED_S)
        with self._lock:
            if not self._closed and self._listener.fileno() < 0:
                self._listener = self._listen()


class _Connection:
    """One connection of the MTA and its twin to the milter."""

    def __init__(self, proxy: MilterProxy, mta: socket.socket, milter: socket.socket) -> None:
        self._proxy, self._mta, self._milter = proxy, mta, milter
        self._spared = True
        self._next_answer: Fault | None = None
        self._ending = False

    def run(self) -> None:
        answers = threading.Thread(target=self._answers, daemon=True)
        answers.start()
        with suppress(OSError):
            self._commands()
        _shut(self._milter)
        answers.join()
        _shut(self._mta)

    def _commands(self) -> None:
        while packet := _packet(self._mta):
            letter = chr(packet[4])
            self._proxy.seen[letter] += 1
            self._ending = letter == END_OF_MESSAGE
            fault = self._proxy.take(letter) if self._spared else None
            if fault and not self._commit(fault, letter):
                return
            self._milter.sendall(packet)

    def _commit(self, fault: Fault, step: str) -> bool:
        """Breaks something; False when the connection is over."""
        self._spared = False
        fault.act()
        if fault.kind == "refuse":
            self._proxy.refuse()
        if fault.kind in ("cut", "refuse"):
            return False
        if fault.kind == "garble" and step in "AQ":  # no answer will come
            self._mta.sendall(self._proxy.garbage(fault))
        self._next_answer = fault
        return True

    def _answers(self) -> None:
        with suppress(OSError):
            while packet := _packet(self._milter):
                fault, self._next_answer = self._next_answer, None
                if fault and fault.kind == "slow":
                    time.sleep(fault.delay_s)
                if fault and fault.kind == "garble":
                    packet = self._proxy.garbage(fault)
                elif fault and fault.kind == "half":
                    self._mta.sendall(packet[:-1])
                    break
                elif self._ending and packet[4] in PERMISSIONS:
                    self._proxy.permit()
                self._mta.sendall(packet)
        _shut(self._mta)


def _packet(source: socket.socket) -> bytes:
    """The next whole packet; empty at the end."""
    head = _exactly(source, 4)
    length = int.from_bytes(head, "big")
    body = _exactly(source, length) if head and length <= LARGEST else b""
    return head + body if body else b""


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
