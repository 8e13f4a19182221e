"""One connection to a Valkey or Redis server, on which every call ends in time.

redis-py's timeouts are for each piece that arrives; a server that drips one byte at a time would hold a
round or a callback for as long as it likes. So its socket is put into a wrapper that knows when the call has
to end.
"""

import os
import select
import socket
import ssl
import time
from typing import Any

from redis.connection import Connection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as ServerTimeoutError

from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange.key_file import secret_path

CALL_S = 0.2
SYN_EVERY_S = 0.04  # between two connections that are begun
SILENT_S = 0.7  # a connection that has brought nothing for so long is given up


class LateError(ServerTimeoutError):
    """No answer in time; the connection still stands, and the answer is owed."""


class TimedSocket:
    """A socket whose operations end at `until_s` (monotonic seconds), together and not each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.until_s = 0.0

    def begin(self) -> None:
        """A call begins: it has CALL_S seconds."""
        self.until_s = time.monotonic() + CALL_S

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

    def shutdown(self, how: int) -> None:
        """As of a socket."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """As of a socket."""
        self._sock.close()


class Line(Connection):
    """A connection to one server. Any failure leaves it unusable: open another one."""

    def __init__(self, host: str, port: int, place: ServerPlace, password: str) -> None:
        self._place = place
        self._timed: TimedSocket | None = None
        self._owed, self._heard_s = 0, 0.0
        self._asked: tuple[tuple[str, ...], ...] = ()
        self._answers: list[Any] = []
        super().__init__(host=host, port=port, username=place.user or None, password=password or None,
                         socket_timeout=CALL_S, socket_connect_timeout=CALL_S, decode_responses=True,
                         encoding_errors="replace", protocol=2, driver_info=None)

    def exchange(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to `commands`, sent together. Raises RedisError or OSError; the first of them, if the
        server refuses several.
        """
        replies = self.replies(*commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def replies(self, *commands: tuple[str, ...]) -> list[Any]:
        """The same, with refusals among the replies. What it raises has closed the connection, but for
        LateError: then the answer is owed, and a later call waits for it first.

        A lost packet comes again after 200 ms at the earliest (RFC 6298), which is as long as a call may
        take. To connect anew for each would lose more packets, and the call with them.
        """
        return self._answered(commands, again=True)

    def ask(self, *commands: tuple[str, ...]) -> list[Any]:
        """The same for commands that only read: an answer that is owed to them is taken when it comes. To ask
        anew would lose it, and of two packets in a row that are late the second one, too.
        """
        return self._answered(commands, again=False)

    def _answered(self, commands: tuple[tuple[str, ...], ...], *, again: bool) -> list[Any]:
        try:
            if self._timed is None:
                self.connect_check_health(check_health=False, retry_socket_connect=False)
            assert self._timed is not None
            self._timed.begin()
            if again or not self._owed or commands != self._asked:
                self._await()
                self._heard_s = time.monotonic()
                self.send_packed_command(self.pack_commands(commands), check_health=False)
                self._owed, self._asked, self._answers = len(commands), commands, []
            self._await()
            return self._answers
        except LateError:
            raise
        except Exception:
            self.close()
            raise

    def _await(self) -> None:
        while self._owed:
            self._answers.append(self._reply())

    def _reply(self) -> Any:
        try:
            reply: Any = self.read_response(disconnect_on_error=False)
        except ResponseError as error:
            reply = error
        except ServerTimeoutError as error:
            if time.monotonic() - self._heard_s < SILENT_S:
                raise LateError(f"no answer within {CALL_S} s") from error
            raise
        self._owed -= 1
        self._heard_s = time.monotonic()
        return reply

    def close(self) -> None:
        """Ends the connection; it may be ended already."""
        self.disconnect()
        self._timed, self._owed = None, 0

    def _connect(self) -> TimedSocket:
        until_s = time.monotonic() + CALL_S
        sock = _first_to_stand((self.host, self.port), until_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._place.tls:
                sock = _encrypted(sock, self._place, self.host, until_s)
        except BaseException:
            sock.close()
            raise
        self._timed, self._heard_s = TimedSocket(sock), time.monotonic()
        self._timed.until_s = until_s
        return self._timed


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
