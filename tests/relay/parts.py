"""The milter's inner parts put together without sockets, clock or exchange."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from egressguard.core.hosts import Address, Host
from egressguard.core.verdict import State
from egressguard_milter.decision import Decision
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.policy import Policy
from egressguard_milter.session import Session
from egressguard_milter.tallies import Tallies


@dataclass
class Parts:
    """One relay's limits and what they have counted."""

    ledger: Ledger
    limits: Limits
    tallies: Tallies

    def session(self, address: str | None = "192.0.2.1", name: str = "", now_s: float = 0.0) -> Session:
        session = Session(self.limits, self.tallies)
        session.connect(address, name, now_s)
        return session

    def messages(self, address: str | None = "192.0.2.1") -> int:
        """The limit of messages of a client that nobody has judged."""
        return self.limits.scaled(self.limits.allowance(as_address(address)), 0.0).standing.limit


def as_address(text: str | None) -> Address | None:
    return ip_address(text) if text else None


def parts(policy: Policy, verdicts: Mapping[Host, State] | None = None,
          state: Callable[[Host, float], State] | None = None) -> Parts:
    """A relay with this policy, where `verdicts` (or `state`) tells who is suspected."""
    found = verdicts or {}
    ledger = Ledger(policy.horizon_s, policy.max_clients)
    judge = state or (lambda host, _: found.get(host, State.CLEAN))
    return Parts(ledger, Limits(policy, ledger, judge), Tallies())


def mail(session: Session, now_s: float = 0.0, sender: str = "a@inside.example", login: str = "") -> Decision:
    return session.mail(sender, login, 0, now_s)


def send(session: Session, count: int, now_s: float = 0.0, sender: str = "a@inside.example", login: str = "",
         recipients: int = 1) -> int:
    """How many of `count` messages with so many recipients are accepted."""
    accepted = 0
    for _ in range(count):
        if mail(session, now_s, sender, login).accepted:
            for _ in range(recipients):
                session.recipient("outside.example", now_s)
            session.end_of_message(now_s)
            accepted += 1
    return accepted
