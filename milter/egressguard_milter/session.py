"""One client's connection: at most one reservation, settled or given back exactly once.

Abort arrives redundantly (twice per refused MAIL in Postfix) and not always, so every way out of a
transaction ends in `_release`, which does nothing the second time. A connection that was let in is never
cut because of others: connection limits are asked at its beginning only.
"""

from dataclasses import dataclass

from egressguard.core.hosts import Address, canonical_address
from egressguard_milter.decision import Decision
from egressguard_milter.ledger import Claim, Hold
from egressguard_milter.limits import Limits, exceeded
from egressguard_milter.tallies import Tallies, bit
from egressguard_milter.terms import UNADDRESSED, Allowance, Scaled

NOBODY = Allowance(UNADDRESSED, Claim(UNADDRESSED, ()))


def address_in(text: str | None) -> Address | None:
    """The address of a client as the MTA wrote it; None when it is none."""
    if text is None:
        return None
    try:
        return canonical_address(text)
    except ValueError:
        return None


@dataclass(slots=True)
class Transaction:
    """A message on its way: what it has reserved, and what was said about it so far."""

    hold: Hold
    sender: str
    scaled: Scaled
    most_recipients: int | None
    declared_bytes: int = 0
    recipients: int = 0
    domains: int = 0
    refused: Decision | None = None


class Session:
    """One client at a time: what it may do next."""

    def __init__(self, limits: Limits, tallies: Tallies) -> None:
        self._limits, self._tallies = limits, tallies
        self._connection: Hold | None = None
        self._transaction: Transaction | None = None
        self._refusal: Decision | None = None
        self._address: Address | None = None
        self._name = ""
        self._allowance, self._directory = NOBODY, limits.directory
        self._messages = 0

    def connect(self, address: str | None, name: str, now_s: float) -> Decision:
        """A client is there. XCLIENT makes it a second time on one connection, as another client."""
        self.close(now_s)
        self._address, self._name, self._messages = address_in(address), name, 0
        self._look_up()
        if self._address is not None and (name or self._address.version == 6):
            self._tallies.met(self._allowance.host, self._address, name)
        decision, self._connection = self._limits.open(self._allowance, now_s)
        self._refusal = None if decision.accepted else decision
        if self._connection is not None:
            self._tallies.connected(self._allowance.host, now_s)
        return self._told(decision)

    def mail(self, sender: str, login: str, declared_bytes: int, now_s: float) -> Decision:
        """MAIL FROM: reserves one message with one recipient, so the first RCPT is never over a limit."""
        if self._transaction is not None:
            self._release(now_s)
        if self._refusal is not None:
            return self._refusal
        limits, directory = self._limits, self._limits.directory
        if self._directory is not directory:
            self._look_up()
        scaled = limits.scaled(self._allowance, now_s)
        most = scaled.levels.get("messages_per_connection")
        if most is not None and self._messages >= most:
            return self._told(exceeded(scaled, "messages_per_connection", self._messages, most))
        claims, most = scaled.claims, scaled.levels.get("recipients_per_message")
        for payer in (directory.sender(sender), directory.login(login) if login else None):
            if payer is not None:
                claim, level = payer
                claims = (*claims, claim)
                most = level if most is None or (level is not None and level < most) else most
        decision, hold = limits.reserve(scaled, claims, now_s)
        if hold is None:
            return self._told(decision)
        self._transaction = Transaction(hold, sender, scaled, most, declared_bytes)
        return decision

    def recipient(self, domain: str, now_s: float) -> Decision:
        """RCPT TO that the MTA takes. The first one of a message is paid for already."""
        transaction = self._transaction
        if transaction is None:
            return Decision(self._allowance.host)
        if transaction.refused is not None:
            return self._told(transaction.refused)
        scaled, most, count = transaction.scaled, transaction.most_recipients, transaction.recipients
        if most is not None and count >= most:
            return self._told(exceeded(scaled, "recipients_per_message", count, most))
        decision = self._limits.extend(scaled, transaction.hold, now_s) if count else scaled.accepted
        if decision.limit:
            return self._told(decision)
        transaction.recipients += 1
        transaction.domains |= bit(domain)
        return decision

    def recipient_refused(self, now_s: float) -> None:
        """RCPT TO that the MTA refuses by itself."""
        self._tallies.refused_recipient(self._allowance.host)
        decision = self._limits.recipient_refused(self._allowance, now_s)
        if not decision.accepted and self._transaction is not None:
            self._transaction.refused = decision

    @property
    def let_in(self) -> bool:
        """Whether there is a client, and it counts as a connection."""
        return self._connection is not None

    @property
    def nothing_accepted(self) -> bool:
        """Whether no recipient of this message was taken: then DATA would be answered with 554."""
        return self._transaction is None or self._transaction.recipients == 0

    @property
    def hold_queue(self) -> bool:
        """Whether this message belongs in the MTA's hold queue."""
        return self._transaction is not None and self._transaction.scaled.standing.hold_queue

    def end_of_message(self, now_s: float) -> Decision | None:
        """The message is complete: now it counts. None when none was reserved."""
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return None
        recipients = max(1, transaction.recipients)
        self._limits.settle(transaction.hold, recipients, now_s)
        self._messages += 1
        self._tallies.accepted(self._allowance.host, transaction.sender, recipients, transaction.domains,
                               transaction.declared_bytes, self._messages, now_s)
        host, tier, verdict, *_ = transaction.scaled.accepted
        return Decision(host, tier, verdict, "", host, 0, self._messages)

    def abort(self, now_s: float) -> None:
        """The transaction ended without a message, or had ended before."""
        self._release(now_s)

    def close(self, now_s: float) -> None:
        """The client is gone."""
        self._release(now_s)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._limits.close(connection, now_s)
            self._tallies.gone(self._allowance.host, now_s)

    def _look_up(self) -> None:
        self._directory = self._limits.directory
        self._allowance = self._directory.client(self._address, self._name)

    def _told(self, decision: Decision) -> Decision:
        if not decision.accepted:
            self._tallies.deferred(decision.host, decision.limit)
        return decision

    def _release(self, now_s: float) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._limits.release(transaction.hold, now_s)
