"""One connection to a Valkey or Redis server, on which every call ends in time.

redis-py's timeouts are for each piece that arrives; a server that drips one byte at a time would hold a
round or a callback for as long as it likes. So its socket is put into a wrapper that knows when the call has
to end.
"""

import os
import select
import socket
import ssl
import struct
import time
from typing import Any

from redis.connection import Connection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as ServerTimeoutError

from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange.key_file import secret_path

CALL_S = 0.2
SYN_EVERY_S = 0.04  # between two connections that are begun
PIECE_S = 0.01  # for the rest of an answer whose beginning has come
Commands = tuple[tuple[str, ...], ...]


class LateError(ServerTimeoutError):
    """No answer in time; the connections still stand, and what was asked may happen yet."""


class TimedSocket:
    """A socket whose operations end at `until_s` (monotonic seconds), together and not each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.until_s = 0.0

    def fileno(self) -> int:
        """As of a socket."""
        return self._sock.fileno()

    def forget(self) -> None:
        """What was not sent yet will not be: to close it ends the connection at once."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _rest(self) -> None:
        rest_s = self.until_s - time.monotonic()
        if rest_s <= 0:
            raise TimeoutError(f"no answer within {CALL_S} s")
        self._sock.settimeout(rest_s)

    def recv(self, size: int) -> bytes:
        """What has arrived, at most `size` bytes."""
        self._rest()
        try:
            return self._sock.recv(size)
        except TimeoutError:
            raise TimeoutError(f"no answer within {CALL_S} s") from None

    def sendall(self, data: bytes) -> None:
        """Sends all of `data`."""
        rest = memoryview(data)
        while rest:
            self._rest()
            rest = rest[self._sock.send(rest):]

    def settimeout(self, _: float | None) -> None:
        """The deadline is the call's, not the library's."""

    def shutdown(self, _: int) -> None:
        """Closing is enough; what was sent goes on its way, unless it is to be forgotten."""

    def close(self) -> None:
        """As of a socket."""
        self._sock.close()


class Line(Connection):
    """A connection to one server, for one question at a time. Any failure leaves it unusable."""

    def __init__(self, host: str, port: int, place: ServerPlace, password: str) -> None:
        self._place, self._until_s = place, 0.0
        self._timed: TimedSocket | None = None
        self.asked: Commands = ()
        self.asked_s = 0.0
        self.unwanted = False  # another connection has brought the answer
        self._greeting: Commands = ((("AUTH", place.user or "default", password),) if password else ())
        self._greeting += (("ROLE",),)
        self._owed = 0
        self._answers: list[Any] = []
        super().__init__(host=host, port=port, socket_timeout=CALL_S, socket_connect_timeout=CALL_S,
                         decode_responses=True, encoding_errors="replace", protocol=2, driver_info=None,
                         redis_connect_func=_begin)

    def exchange(self, *commands: tuple[str, ...], within_s: float | None = None) -> list[Any]:
        """The replies to `commands`, sent together, within CALL_S. Raises RedisError or OSError; the first of
        them, if the server refuses several.
        """
        until_s = time.monotonic() + (CALL_S if within_s is None else within_s)
        try:
            self.send(commands, until_s)
            replies = self.receive(until_s)
            if replies is None:
                raise ServerTimeoutError("no answer in time")
        except Exception:
            self.close()
            raise
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def send(self, commands: Commands, until_s: float) -> None:
        """Asks, and connects first if need be. Who we are, and what the server is, goes with the first
        question: each journey more may be lost.
        """
        if self._timed is None:
            self._until_s = until_s
            self.connect_check_health(check_health=False, retry_socket_connect=False)
        assert self._timed is not None
        self._timed.until_s = until_s
        self.send_packed_command(self.pack_commands((*self._greeting, *commands)), check_health=False)
        self.asked, self.asked_s, self.unwanted = commands, time.monotonic(), False
        self._owed, self._answers = len(self._greeting) + len(commands), []

    def receive(self, until_s: float) -> list[Any] | None:
        """The replies, once all of them have come; refusals are among them."""
        assert self._timed is not None
        self._timed.until_s = until_s
        try:
            while self._owed:
                self._answers.append(self._reply())
                self._owed -= 1
        except ServerTimeoutError:
            return None
        self.asked = ()
        return self._greeted()

    def _reply(self) -> Any:
        try:
            return self.read_response(disconnect_on_error=False)
        except ResponseError as error:
            return error

    def _greeted(self) -> list[Any]:
        """The answers without those to the greeting, which must be right."""
        first, answers = self._answers[:len(self._greeting)], self._answers[len(self._greeting):]
        self._greeting = ()
        for reply in first:
            if isinstance(reply, ResponseError):
                raise reply
        if first and first[-1][0] != "master":
            raise ResponseError(f"{self.host} port {self.port} is a replica, and no primary answers")
        return answers

    def fileno(self) -> int:
        """For poll."""
        assert self._timed is not None
        return self._timed.fileno()

    def close(self, *, forget: bool = False) -> None:
        """Ends the connection; it may be ended already. `forget`: what was not sent yet is not sent."""
        if self._timed is not None and forget:
            self._timed.forget()
        self.disconnect()
        self._timed, self.asked = None, ()

    def _connect(self) -> TimedSocket:
        sock = _first_to_stand((self.host, self.port), self._until_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._place.tls:
                sock = _encrypted(sock, self._place, self.host, self._until_s)
        except BaseException:
            sock.close()
            raise
        timed = self._timed = TimedSocket(sock)
        timed.until_s = self._until_s
        return timed


def _begin(connection: Connection) -> None:
    connection._parser.on_connect(connection)  # no further word: see Line.send


def _first_to_stand(address: tuple[str, int], until_s: float) -> socket.socket:
    """A connection to `address`. A lost SYN comes again after a second (RFC 6298), which is too late, so
    another connection is begun each SYN_EVERY_S, and the first that stands is used.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    begun: list[socket.socket] = []
    poll, found = select.poll(), None
    try:
        while found is None:
            rest_s = until_s - time.monotonic()
            if rest_s <= 0:
                raise TimeoutError(f"no connection within {CALL_S} s")
            begun.append(socket.socket(family, socket.SOCK_STREAM))
            begun[-1].setblocking(False)
            begun[-1].connect_ex(address)
            poll.register(begun[-1], select.POLLOUT)
            ready = poll.poll(min(rest_s, SYN_EVERY_S) * 1000)
            found = next((sock for sock in begun if ready and sock.fileno() == ready[0][0]), None)
        error = found.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        begun.remove(found)
        return found
    finally:
        for sock in begun:
            sock.close()


def _encrypted(sock: socket.socket, place: ServerPlace, host: str, until_s: float) -> ssl.SSLSocket:
    """`sock` with TLS, the server's certificate verified against the site's own authority and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(secret_path(place.ca))
    # The handshake takes several pieces, and all of them share one deadline.
    wrapped = context.wrap_socket(sock, server_hostname=place.name or host, do_handshake_on_connect=False)
    wrapped.settimeout(0)
    try:
        _handshake(wrapped, until_s)
    except BaseException:
        wrapped.close()  # it has taken the descriptor over
        raise
    return wrapped


def _handshake(sock: ssl.SSLSocket, until_s: float) -> None:
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            _wait(sock, select.POLLIN, until_s)
        except ssl.SSLWantWriteError:
            _wait(sock, select.POLLOUT, until_s)


def _wait(sock: ssl.SSLSocket, event: int, until_s: float) -> None:
    poll = select.poll()  # a milter has more descriptors than select() can name
    poll.register(sock, event)
    if not poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
        raise TimeoutError(f"no TLS handshake within {CALL_S} s")
