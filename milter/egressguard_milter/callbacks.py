"""The only file that knows libmilter. A callback asks the session and turns its answer into a reply.

Debian's libmilter serves connections from a pool of workers: one connection's callbacks come one after
another, but from changing threads. And no exception may become an accept: it is a temporary failure.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import Milter

from egressguard_milter.endpoint import Endpoint, ListenError
from egressguard_milter.journal import Repetitions, line, logger
from egressguard_milter.limits import Decision, Limits
from egressguard_milter.reply import CODE, ENHANCED_CODE, reply_text
from egressguard_milter.session import Session

BACKLOG = 1024  # libmilter's 20 refuses connections when many clients arrive at once
NO_ACTIONS = 0  # it changes nothing in a message


def guarded(callback: Callable[..., int]) -> Callable[..., int]:
    """Makes an exception in `callback` a logged temporary failure."""
    @functools.wraps(callback)
    def guard(self: "Connection", *arguments: Any) -> int:
        try:
            return callback(self, *arguments)
        except Exception:
            logger.exception(line("callback_failed", callback=callback.__name__))
            return int(Milter.TEMPFAIL)
    return guard


class Connection(Milter.Base):
    """One connection from the MTA.

    pymilter negotiates away every callback that is not defined here, so neither headers nor body cross
    the wire; the end of the message still does.
    """

    def __init__(self, limits: Limits, deferrals: "Deferrals") -> None:
        self._session = Session(limits)
        self._deferrals = deferrals

    @guarded
    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        """Internet families bring a tuple that begins with the address, others a path or nothing."""
        self._session.connect(str(hostaddr[0]) if isinstance(hostaddr, tuple) else None)
        return int(Milter.CONTINUE)

    @guarded
    def envfrom(self, sender: str, *parameters: str) -> int:
        """MAIL FROM."""
        decision = self._session.mail(time.monotonic())
        if decision.accepted:
            return int(Milter.CONTINUE)
        self.setreply(CODE, ENHANCED_CODE, reply_text(decision))
        self._deferrals.say(decision)
        return int(Milter.TEMPFAIL)

    @guarded
    def eom(self) -> int:
        """End of message."""
        self._session.end_of_message(time.monotonic())
        return int(Milter.CONTINUE)

    @guarded
    def abort(self) -> int:
        """RSET, a refused transaction, or a connection that broke."""
        self._session.abort()
        return int(Milter.CONTINUE)

    @guarded
    def close(self) -> int:
        """The connection ended, or XCLIENT begins another session on it."""
        self._session.close()
        return int(Milter.CONTINUE)


class Deferrals:
    """The log lines about deferred messages."""

    def __init__(self) -> None:
        self._repetitions = Repetitions()
        self._lock = threading.Lock()

    def say(self, decision: Decision) -> None:
        """Logs `decision`, unless its client had its line a short while ago."""
        with self._lock:
            suppressed = self._repetitions.suppressed(decision.host, time.monotonic())
        if suppressed is not None:
            logger.warning(line("deferred", client=decision.host, reason=decision.reason,
                                tier=decision.tier, limit=decision.limit, used=decision.used,
                                window_s=decision.window_s, retry_s=decision.retry_s,
                                suppressed=suppressed))


def listen(endpoint: Endpoint, limits: Limits) -> None:
    """Opens `endpoint`; connections wait there until `serve`. Raises ListenError."""
    deferrals = Deferrals()
    Milter.factory = lambda: Connection(limits, deferrals)
    Milter.set_flags(NO_ACTIONS)
    Milter.set_exception_policy(Milter.TEMPFAIL)
    Milter.set_connect_callback(Milter.connect_callback)
    Milter.set_envfrom_callback(lambda context, *words: context.getpriv().envfrom_bytes(*words))
    Milter.set_eom_callback(lambda context: context.getpriv().eom())
    Milter.set_abort_callback(lambda context: context.getpriv().abort())
    Milter.set_close_callback(Milter.close_callback)
    Milter.setconn(endpoint.connection)
    Milter.setbacklog(BACKLOG)
    Milter.register("egressguard-milter", negotiate=Milter.negotiate_callback)
    try:
        Milter.opensocket(False)
    except Milter.error as error:
        raise ListenError(f"cannot listen on {endpoint.connection}: {error}") from error


def serve() -> None:
    """Answers the MTA until libmilter stops. Raises ListenError if it cannot go on."""
    try:
        Milter.main()
    except Milter.error as error:
        raise ListenError(f"libmilter gave up: {error}") from error
