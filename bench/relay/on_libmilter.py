"""The same sessions, limits and durable counts behind libmilter, through pymilter's C module: what our own
protocol is measured against and compared with.

Usage: python -m bench.relay.on_libmilter CONFIG. Logs nothing, polls no exchange.
"""

import sys
import threading
import time
from pathlib import Path
from time import monotonic
from typing import Any

import milter
from egressguard.boot import boot_id
from egressguard.core.verdict import State
from egressguard_milter import conversation as own
from egressguard_milter.conversation import declared_bytes, envelope_address
from egressguard_milter.decision import Decision
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.mistakes import read_policy
from egressguard_milter.reply import CONNECTION, codes, reply_text
from egressguard_milter.segments import Segments
from egressguard_milter.session import Session
from egressguard_milter.tallies import Tallies
from egressguard_milter.wire import CONNECT, END_OF_MESSAGE, MAIL, RCPT, text

STAGES = {milter.M_CONNECT: CONNECT, milter.M_ENVFROM: MAIL, milter.M_ENVRCPT: RCPT,
          milter.M_EOM: END_OF_MESSAGE}


class _Callbacks:
    """libmilter's callbacks; `context` is one connection, from whatever thread."""

    def __init__(self, limits: Limits, tallies: Tallies) -> None:
        self._limits, self._tallies = limits, tallies

    def negotiate(self, context: Any, offered: list[int]) -> int:
        if offered[0] & milter.SETSYMLIST:
            for stage, command in STAGES.items():
                context.setsymlist(stage, own.NEEDED[command].decode())
        context.setpriv(Session(self._limits, self._tallies))
        offered[:] = [offered[0] & own.ACTIONS, offered[1] & own.STEPS, 0, 0]
        return int(milter.CONTINUE)

    def connect(self, context: Any, host: str, _: int, address: Any) -> int:
        session = context.getpriv()
        if session is None:  # the MTA keeps the connection for its next client
            context.setpriv(session := Session(self._limits, self._tallies))
        resolved = context.getsymval("{client_resolve}")
        verified = resolved == "OK" if resolved else (context.getsymval("v") or "").startswith("Postfix")
        found = address[0] if isinstance(address, tuple) else None
        return _say(context, session.connect(found, host if verified else "", monotonic()))

    def mail(self, context: Any, sender: bytes, *parameters: bytes) -> int:
        decision = context.getpriv().mail(
            envelope_address(text(sender)), context.getsymval("{auth_authen}") or "",
            declared_bytes([text(word) for word in parameters]), monotonic())
        return _say(context, decision)

    def rcpt(self, context: Any, recipient: bytes, *_: bytes) -> int:
        session = context.getpriv()
        if context.getsymval("{rcpt_mailer}") == "error":
            session.recipient_refused(monotonic())
            return int(milter.CONTINUE)
        decision = session.recipient(envelope_address(text(recipient)).rpartition("@")[2], monotonic())
        return _say(context, decision, CONNECTION if session.nothing_accepted else None)

    def end_of_message(self, context: Any) -> int:
        session = context.getpriv()
        if session.hold_queue:
            context.quarantine("held by egressguard-milter: the client looks compromised")
        return int(milter.CONTINUE if session.end_of_message(monotonic()) else milter.TEMPFAIL)

    def abort(self, context: Any) -> int:
        context.getpriv().abort(monotonic())
        return int(milter.CONTINUE)

    def close(self, context: Any) -> int:
        session = context.getpriv()
        if session is not None:
            session.close(monotonic())
            context.setpriv(None)
        return int(milter.CONTINUE)


def _say(context: Any, decision: Decision, code: tuple[str, str] | None = None) -> int:
    if decision.accepted:
        return int(milter.CONTINUE)
    context.setreply(*(code or codes(decision)), reply_text(decision))
    return int(milter.TEMPFAIL)


def main(config: Path) -> None:
    """Serves until SIGTERM."""
    policy = read_policy(config)
    memory = Segments(policy.state_folder, boot_id())
    memory.load(policy.horizon_s, monotonic())
    ledger = Ledger(policy.horizon_s, policy.max_clients, memory)
    told = _Callbacks(Limits(policy, ledger, lambda *_: State.CLEAN), Tallies())
    threading.Thread(target=_tend, args=(memory, policy.horizon_s), daemon=True).start()
    milter.set_connect_callback(told.connect)
    milter.set_envfrom_callback(told.mail)
    milter.set_envrcpt_callback(told.rcpt)
    milter.set_eom_callback(told.end_of_message)
    milter.set_abort_callback(told.abort)
    milter.set_close_callback(told.close)
    milter.setconn(policy.socket)
    milter.setbacklog(1024)
    milter.register("on-libmilter", negotiate=told.negotiate)
    milter.opensocket(True)
    milter.main()


def _tend(memory: Segments, horizon_s: float) -> None:
    while True:
        time.sleep(0.2)
        memory.maintain(horizon_s, monotonic())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
