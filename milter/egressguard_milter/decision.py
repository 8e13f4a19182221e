"""What became of one question to the limits."""

from typing import Literal, NamedTuple

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.account import Kind
from egressguard_milter.ledger import Refusal
from egressguard_milter.policy import RATES

Limit = Literal["", "connections", "messages", "recipients", "refused_recipients", "open_connections",
                "recipients_per_message", "messages_per_connection", "held", "sessions"]
NAMES: dict[Kind, Limit] = dict(zip(Kind, RATES, strict=True))  # type: ignore[arg-type]
CONNECTION_LIMITS = ("connections", "open_connections", "sessions")


class Decision(NamedTuple):
    """Whether the client may go on, and otherwise which limit of which key stops it.

    A tuple, because several are made for each message and a frozen dataclass takes five times as long.
    `limit` is empty when it may. `key` is what was counted: the client, a shared budget, a sender, a login.
    `used` of `most` count within `window_s` seconds (0 for limits that know no time); after `retry_s`
    seconds another attempt makes sense.
    """

    host: Host
    tier: Tier = Tier.NORMAL
    verdict: State = State.CLEAN
    limit: Limit = ""
    key: str = ""
    most: int = 0
    used: int = 0
    window_s: float = 0.0
    retry_s: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the client may go on; what was reserved must then be settled or released."""
        return not self.limit


class Standing(NamedTuple):
    """What a relay does with one client now: its tier, and its limit in messages per window."""

    tier: Tier
    limit: int
    verdict: State = State.CLEAN
    hold_queue: bool = False


def refused(host: Host, standing: Standing, refusal: Refusal) -> Decision:
    """The decision that a refusal of the ledger means."""
    cap = refusal.cap
    limit: Limit = NAMES[cap.kind] if cap else "open_connections"
    return Decision(host, standing.tier, standing.verdict, limit, refusal.key, refusal.most, refusal.used,
                    cap.window_s if cap else 0.0, refusal.retry_s)
