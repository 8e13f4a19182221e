"""The only file that knows libmilter. A callback asks the session and turns its answer into a reply.

Debian's libmilter serves connections from a pool of workers: one connection's callbacks come one after
another, but from changing threads. And no exception may become an accept: it is a temporary failure.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import Milter

from egressguard_milter.decision import CONNECTION_LIMITS, Decision
from egressguard_milter.endpoint import Endpoint, ListenError
from egressguard_milter.journal import line, logger
from egressguard_milter.limits import Limits
from egressguard_milter.log import DecisionLog
from egressguard_milter.reply import CONNECTION, codes, reply_text
from egressguard_milter.session import Session
from egressguard_milter.tallies import Tallies

BACKLOG = 1024  # libmilter's 20 refuses connections when many clients arrive at once
REFUSED_MAILER = "error"  # sendmail's and Postfix's {rcpt_mailer} for a recipient that they refuse


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


@Milter.rejected_recipients
class Connection(Milter.Base):
    """One connection from the MTA.

    pymilter negotiates away every callback that is not defined here, so neither headers nor body cross
    the wire; the end of the message still does. Recipients that the MTA refuses are asked for, to count them.
    """

    def __init__(self, limits: Limits, tallies: Tallies, log: DecisionLog) -> None:
        self._session = Session(limits, tallies)
        self._log = log
        self._sender = ""

    @guarded
    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        """Internet families bring a tuple that begins with the address, others a path or nothing.

        Postfix shows this text to nobody and sendmail drops it; whoever still says MAIL is told again.
        """
        address = str(hostaddr[0]) if isinstance(hostaddr, tuple) else None
        name = hostname if self._verified() else ""
        return self._answer(self._session.connect(address, name, time.monotonic()))

    @guarded
    def envfrom(self, sender: str, *parameters: str) -> int:
        """MAIL FROM."""
        self._sender = envelope_address(sender)
        login = self.getsymval("{auth_authen}") or ""
        decision = self._session.mail(self._sender, login, declared_bytes(parameters), time.monotonic())
        return self._answer(decision)

    @guarded
    def envrcpt(self, recipient: str, *parameters: str) -> int:
        """RCPT TO, whether the MTA takes the recipient or not."""
        if self.getsymval("{rcpt_mailer}") == REFUSED_MAILER:
            self._session.recipient_refused(time.monotonic())
            return int(Milter.CONTINUE)
        decision = self._session.recipient(envelope_address(recipient).rpartition("@")[2], time.monotonic())
        if decision.accepted or not self._session.nothing_accepted:
            return self._answer(decision)
        # Every recipient refused, the next DATA would be answered with 554, and naive mailers take that as
        # final. 421 ends the connection before.
        return self._answer(decision, CONNECTION)

    @guarded
    def data(self) -> int:
        """DATA: there is nothing to say, but an answer is owed.

        Without it Postfix sends two commands in a row that nobody answers, and over TCP the second waits for
        the acknowledgement of the first: some 40 ms in each message (Nagle's algorithm, delayed ACK).
        """
        return int(Milter.CONTINUE)

    @guarded
    def eom(self) -> int:
        """End of message."""
        if self._session.hold_queue:
            self.quarantine("held by egressguard-milter: the client looks compromised")
        decision = self._session.end_of_message(time.monotonic())
        if decision is not None:
            self._log.say("accepted", decision, lambda: self.getsymval("i") or "")
        return int(Milter.CONTINUE)

    @guarded
    def abort(self) -> int:
        """RSET, a refused transaction, or a connection that broke."""
        self._session.abort(time.monotonic())
        return int(Milter.CONTINUE)

    @guarded
    def close(self) -> int:
        """The connection ended, or XCLIENT begins another session on it."""
        self._session.close(time.monotonic())
        return int(Milter.CONTINUE)

    def _answer(self, decision: Decision, reply: tuple[str, str] | None = None) -> int:
        if decision.accepted:
            return int(Milter.CONTINUE)
        self.setreply(*(reply or codes(decision)), reply_text(decision))
        event = "refused" if decision.limit in CONNECTION_LIMITS else "deferred"
        self._log.say(event, decision, lambda: self.getsymval("i") or "")
        return int(Milter.TEMPFAIL)

    def _verified(self) -> bool:
        """Whether the host name resolves back: Postfix gives no other, sendmail says so in a macro."""
        resolved = self.getsymval("{client_resolve}")
        return bool(resolved == "OK" if resolved else (self.getsymval("v") or "").startswith("Postfix"))


def envelope_address(text: str) -> str:
    """An envelope address without brackets, in lower case; the null sender is `<>`."""
    return text.strip().strip("<>").lower()[:320] or "<>"


def declared_bytes(parameters: tuple[str, ...]) -> int:
    """The SIZE= of a MAIL command, 0 without one."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.upper() == "SIZE" and value.isascii() and value.isdigit():
            return min(int(value[:18]), 1 << 50)
    return 0


def listen(endpoint: Endpoint, limits: Limits, tallies: Tallies) -> None:
    """Opens `endpoint`; connections wait there until `serve`. Raises ListenError."""
    log = DecisionLog()
    Milter.factory = lambda: Connection(limits, tallies, log)
    Milter.set_flags(Milter.QUARANTINE)
    Milter.set_exception_policy(Milter.TEMPFAIL)
    Milter.set_connect_callback(Milter.connect_callback)
    Milter.set_envfrom_callback(lambda context, *words: context.getpriv().envfrom_bytes(*words))
    Milter.set_envrcpt_callback(lambda context, *words: context.getpriv().envrcpt_bytes(*words))
    Milter.set_eom_callback(lambda context: context.getpriv().eom())
    Milter.set_abort_callback(lambda context: context.getpriv().abort())
    Milter.set_close_callback(Milter.close_callback)
    Milter.setconn(endpoint.connection)
    Milter.setbacklog(BACKLOG)
    Milter.register("egressguard-milter", data=lambda context: context.getpriv().data(),
                    negotiate=Milter.negotiate_callback)
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
