"""What one MTA says over one connection, and what it is answered: packets in, the session's decisions out.

No I/O. An exception never becomes an accept: it is logged and a temporary failure.
"""

from collections.abc import Callable, Mapping
from time import monotonic

from egressguard_milter import wire
from egressguard_milter.decision import CONNECTION_LIMITS, Decision
from egressguard_milter.journal import line, logger
from egressguard_milter.limits import Limits
from egressguard_milter.log import DecisionLog
from egressguard_milter.reply import CONNECTION, codes, reply_text
from egressguard_milter.session import Session
from egressguard_milter.tallies import Tallies
from egressguard_milter.wire import GO_ON, LARGEST, WireError, macro, words

REFUSED_MAILER = b"error"  # sendmail's and Postfix's {rcpt_mailer} for a recipient that they refuse
HELD = wire.quarantine("held by egressguard-milter: the client looks compromised") + GO_ON
ACTIONS = wire.QUARANTINE | wire.SET_MACROS
# No content crosses the wire, and no stage whose answer is always the same; the end of the message does.
STEPS = (wire.NO_HELO | wire.NO_DATA | wire.NO_HEADERS | wire.NO_END_OF_HEADERS | wire.NO_BODY
         | wire.NO_UNKNOWN | wire.REFUSED_RECIPIENTS)
# Asked for by name, so that it does not matter what the MTA's configuration sends.
LOGIN, MAILER, QUEUE_ID = b"{auth_authen}", b"{rcpt_mailer}", b"i"
VERSION, RESOLVED = b"v", b"{client_resolve}"
NEEDED = {wire.CONNECT: VERSION + b" " + RESOLVED, wire.MAIL: LOGIN + b" " + QUEUE_ID,
          wire.RCPT: MAILER + b" " + QUEUE_ID, wire.END_OF_MESSAGE: QUEUE_ID}

head_at = wire.HEAD.unpack_from
Handler = Callable[["Conversation", bytes], bytes]


class Conversation:
    """The milter's side of one connection from the MTA; `ended` once the MTA has taken its leave."""

    def __init__(self, limits: Limits, tallies: Tallies, log: DecisionLog) -> None:
        self._session = Session(limits, tallies)
        self._log = log
        self._rest = b""
        self._macros: dict[int, bytes] = {}
        self._in_order = AT_FIRST
        self.ended = False

    def hear(self, data: bytes) -> bytes:
        """What is answered to `data`, which may end within a packet. Raises WireError."""
        if self._rest:
            data = self._rest + data
        answers, at, size = b"", 0, len(data)
        while size - at > 4:
            length, command = head_at(data, at)
            end = at + 4 + length
            if end > size or not length:
                if 0 < length <= LARGEST:
                    break
                raise WireError("a packet of an impossible length")
            handler = self._in_order.get(command)
            if handler is None:
                if self.ended:
                    break
                raise WireError(f"a command out of order, or none: {data[at + 4:at + 5]!r}")
            try:
                answers += handler(self, data[at + 5:end])
            except Exception as error:
                answers += self._failed(error, command, handler)
            at = end
        self._rest = data[at:]
        return answers

    @property
    def let_in(self) -> bool:
        """Whether a client is named that was let in."""
        return self._session.let_in

    def close(self) -> None:
        """The client is gone, whether the MTA took its leave or not."""
        try:
            self._session.close(monotonic())
        except Exception:
            logger.exception(line("callback_failed", callback="close"))

    def _failed(self, error: Exception, command: int, handler: Handler) -> bytes:
        if isinstance(error, WireError):
            raise error
        logger.error(line("callback_failed", callback=handler.__name__.strip("_")), exc_info=error)
        return b"" if command in UNANSWERED else wire.TEMPORARY_FAILURE

    def _negotiate(self, offer: bytes) -> bytes:
        self._in_order = BEFORE_A_CLIENT
        return wire.negotiated(offer, ACTIONS, STEPS, NEEDED)

    def _note_macros(self, data: bytes) -> bytes:
        if not data:
            raise WireError("macros of no stage")
        self._macros[data[0]] = data
        return b""

    def _connect(self, data: bytes) -> bytes:
        """Postfix shows this text to nobody and sendmail drops it; whoever still says MAIL is told again."""
        self._in_order = WITH_A_CLIENT
        host, address = wire.connected(data)
        return self._say(self._session.connect(address, host if self._verified() else "", monotonic()))

    def _mail(self, data: bytes) -> bytes:
        sender, *parameters = words(data)
        login = macro(self._macros.get(wire.MAIL, b""), LOGIN)
        return self._say(self._session.mail(envelope_address(sender), login, declared_bytes(parameters),
                                            monotonic()))

    def _rcpt(self, data: bytes) -> bytes:
        """Told of every recipient, whether the MTA takes it or not."""
        macros = self._macros.get(wire.RCPT, b"")
        if REFUSED_MAILER in macros and macro(macros, MAILER).encode() == REFUSED_MAILER:
            self._session.recipient_refused(monotonic())
            return GO_ON
        domain = envelope_address(words(data)[0]).rpartition("@")[2]
        decision = self._session.recipient(domain, monotonic())
        if not decision.limit:
            return GO_ON
        if not self._session.nothing_accepted:
            return self._say(decision)
        # Every recipient refused, the next DATA would be answered with 554, and naive mailers take that as
        # final. 421 ends the connection before.
        return self._say(decision, CONNECTION)

    def _pass(self, _: bytes) -> bytes:
        """Of no interest here; sent by an MTA that cannot leave it out."""
        return GO_ON

    def _end_of_message(self, _: bytes) -> bytes:
        answer = HELD if self._session.hold_queue else GO_ON
        decision = self._session.end_of_message(monotonic())
        if decision is None:  # no MTA ends what did not begin, and nothing passes that was not counted
            return wire.TEMPORARY_FAILURE
        self._log.say("accepted", decision, self._queue_id)
        self._forget_message()
        return answer

    def _abort(self, _: bytes) -> bytes:
        """RSET, a refused transaction, or a connection that broke."""
        self._session.abort(monotonic())
        self._forget_message()
        return b""

    def _quit(self, _: bytes) -> bytes:
        self.ended, self._in_order = True, NOTHING_MORE
        return b""

    def _quit_for_another(self, _: bytes) -> bytes:
        """The client is gone, and the MTA keeps the connection for its next one."""
        self.close()
        self._macros.clear()
        self._in_order = BEFORE_A_CLIENT
        return b""

    def _say(self, decision: Decision, code: tuple[str, str] | None = None) -> bytes:
        if not decision.limit:
            return GO_ON
        event = "refused" if decision.limit in CONNECTION_LIMITS else "deferred"
        self._log.say(event, decision, self._queue_id)
        return wire.reply(" ".join((*(code or codes(decision)), reply_text(decision))))

    def _queue_id(self) -> str:
        found = (macro(data, QUEUE_ID) for data in reversed(self._macros.values()))
        return next(filter(None, found), "")

    def _forget_message(self) -> None:
        self._macros.clear()  # what CONNECT came with has been used when there is a message

    def _verified(self) -> bool:
        """Whether the host name resolves back: Postfix gives no other, sendmail says so in a macro."""
        macros = self._macros.get(wire.CONNECT, b"")
        resolved = macro(macros, RESOLVED)
        return resolved == "OK" if resolved else macro(macros, VERSION).startswith("Postfix")


LEAVING: dict[int, Handler] = {wire.QUIT: Conversation._quit}
AT_FIRST: Mapping[int, Handler] = {wire.NEGOTIATE: Conversation._negotiate, **LEAVING}
BEFORE_A_CLIENT: Mapping[int, Handler] = {
    **LEAVING, wire.MACROS: Conversation._note_macros, wire.CONNECT: Conversation._connect,
    wire.ABORT: Conversation._abort, wire.QUIT_FOR_ANOTHER: Conversation._quit_for_another}
WITH_A_CLIENT: Mapping[int, Handler] = {
    **BEFORE_A_CLIENT, wire.MAIL: Conversation._mail, wire.RCPT: Conversation._rcpt,
    wire.END_OF_MESSAGE: Conversation._end_of_message,
    **dict.fromkeys((wire.HELO, wire.DATA, wire.UNKNOWN, wire.HEADER, wire.END_OF_HEADERS, wire.BODY),
                    Conversation._pass)}
NOTHING_MORE: Mapping[int, Handler] = {}
UNANSWERED = (wire.MACROS, wire.ABORT, wire.QUIT, wire.QUIT_FOR_ANOTHER)


def envelope_address(word: str) -> str:
    """An envelope address without brackets, in lower case; the null sender is `<>`."""
    return word.strip().strip("<>").lower()[:320] or "<>"


def declared_bytes(parameters: list[str]) -> int:
    """The SIZE= of a MAIL command, 0 without one."""
    for parameter in parameters:
        if parameter[:5].upper() == "SIZE=" and (value := parameter[5:]).isascii() and value.isdigit():
            return min(int(value[:18]), 1 << 50)
    return 0
