"""Several connections to one server, so that a lost packet costs a call what another packet takes, and no
more.

TCP sends a lost packet again after 200 ms at the earliest, then twice as late each time (RFC 6298), which
is as long as a call may take. So when no answer has come after ASK_AGAIN_S, the same is asked on another
connection, and the first answer is taken: whatever is asked here may be asked twice. While nothing gets
lost there is one connection.
"""

import select
import time
from typing import Any

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange import line
from egressguard.exchange.key_file import read_secret
from egressguard.exchange.line import PIECE_S, Commands, LateError, Line

ASK_AGAIN_S = 0.04
SILENT_S = 0.7  # a connection that owes an answer for so long is given up
MOST_LINES = 4


class Hedged:
    """Connections to that of a place's servers that is the primary. Any failure leaves it unusable."""

    def __init__(self, place: ServerPlace) -> None:
        self._place = place
        self._lines = [connect(place)]
        self._host, self._port = self._lines[0].host, self._lines[0].port
        self._changed: Commands = ()  # the last that changed something
        self._done = True
        self._heard_s = time.monotonic()

    def exchange(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to `commands`, which change something, sent together. Raises RedisError or OSError; the
        first of them, if the server refuses several. LateError: it may have happened, or will.
        """
        until_s = time.monotonic() + line.CALL_S
        if not self._done and self._changed != commands:
            self._answered(self._changed, until_s)  # what is late comes first
        for one in [one for one in self._lines if one.asked == self._changed != ()]:
            self._give_up(one)  # or what it still sends would arrive after what is sent now
        self._changed, self._done = commands, False
        replies = self._answered(commands, until_s)
        self._done = True
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def ask(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to `commands`, which only read, refusals among them. Raises as `exchange` does."""
        return self._answered(commands, time.monotonic() + line.CALL_S)

    def close(self) -> None:
        """Ends every connection."""
        while self._lines:
            self._lines.pop().close()

    def _answered(self, commands: Commands, until_s: float) -> list[Any]:
        """The first answer to what may have been asked before; asked again until one comes."""
        self._look_after()
        if not any(one.asked and not one.unwanted for one in self._lines):
            self._heard_s = time.monotonic()  # nobody has been waiting until now
        again_s = time.monotonic() + (ASK_AGAIN_S if self._asking(commands) else 0.0)
        while time.monotonic() < until_s:
            if time.monotonic() >= again_s:
                self._ask_once_more(commands, until_s)
                again_s = time.monotonic() + ASK_AGAIN_S
            answer = self._first(self._asking(commands), min(again_s, until_s))
            if answer is not None:
                for one in self._asking(commands):
                    one.unwanted = True
                return answer
        if self._asking(commands) and time.monotonic() - self._heard_s < SILENT_S:
            raise LateError(f"no answer within {line.CALL_S} s")
        raise TimeoutError(f"Timeout: no answer within {line.CALL_S} s")

    def _asking(self, commands: Commands) -> list[Line]:
        return [one for one in self._lines if one.asked == commands and not one.unwanted]

    def _ask_once_more(self, commands: Commands, until_s: float) -> None:
        """On a connection that owes nothing, or a new one. Raises only if it is asked nowhere."""
        one = self._free()
        if one is None:
            return
        try:
            one.send(commands, until_s)
        except (RedisError, OSError):
            self._give_up(one)
            if not self._asking(commands):
                raise

    def _free(self) -> Line | None:
        """One that owes nothing; a new one, if need be in place of one whose answer nobody wants any more."""
        idle = [one for one in self._lines if not one.asked]
        if idle:
            return idle[0]
        unwanted = [one for one in self._lines if one.unwanted]
        if len(self._lines) >= MOST_LINES and unwanted:
            self._give_up(unwanted[0])
        if len(self._lines) < MOST_LINES:
            self._lines.append(self._new())
            return self._lines[-1]
        return None

    def _first(self, asked: list[Line], until_s: float) -> list[Any] | None:
        """The first complete answer, if one comes in time. One connection that breaks is no failure."""
        poll = select.poll()  # a milter has more descriptors than select() can name
        for one in asked:
            poll.register(one, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, until_s - time.monotonic()) * 1000)}
        for one in asked:
            if one.fileno() in ready:
                answer = self._received(one)
                if answer is not None:
                    return answer
        return None

    def _received(self, one: Line) -> list[Any] | None:
        try:
            answer = one.receive(time.monotonic() + PIECE_S)
            self._heard_s = time.monotonic()
            return answer
        except (AuthenticationError, ResponseError):
            self._give_up(one)
            raise
        except (RedisError, OSError):
            self._give_up(one)
            return None

    def _look_after(self) -> None:
        """Takes in what nobody waits for any more, and gives up what has been silent for too long."""
        for one in [one for one in self._lines if one.asked]:
            if one.unwanted:
                self._first([one], 0.0)
            if one.asked and time.monotonic() - one.asked_s > SILENT_S:
                self._give_up(one)

    def _give_up(self, one: Line) -> None:
        one.close(forget=True)
        if one in self._lines:
            self._lines.remove(one)

    def _new(self) -> Line:
        return Line(self._host, self._port, self._place, password_of(self._place))


def password_of(place: ServerPlace) -> str:
    """What the file of the password has, if there is one. Raises ExchangeError."""
    return read_secret(place.password).strip() if place.password else ""


def connect(place: ServerPlace) -> Line:
    """A connection to the first of the place's servers that is a primary; all of them share one deadline."""
    failure: Exception | None = None
    password = password_of(place)
    until_s, rest = time.monotonic() + line.CALL_S, len(place.addresses)
    for host, port in place.addresses:
        found = Line(host, port, place, password)
        try:
            found.exchange(within_s=(until_s - time.monotonic()) / rest)
        except AuthenticationError as error:
            failure = AuthenticationError(f"refuses user {place.user or 'default'!r}: {error}")
        except (RedisError, OSError) as error:
            failure = error
        else:
            return found
        rest -= 1
    raise failure or ResponseError("no server is named")
