"""The decision on one message: the client's base limit, scaled by its verdict, against the ledger."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.ledger import Ledger
from egressguard_milter.policy import Policy, Standing

Reason = Literal["", "messages", "held", "full"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether `host` may send one more message, and by which limit.

    `reason` is empty when it may; `used` counts the messages of the window, reserved ones included;
    after `retry_s` seconds another attempt makes sense.
    """

    host: Host
    tier: Tier
    limit: int
    window_s: float
    used: int = 0
    reason: Reason = ""
    retry_s: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the message may go on; its reservation must then be settled or released."""
        return not self.reason


class Limits:
    """Checks messages against a policy; `state` tells the verdict on a host at a time."""

    def __init__(self, policy: Policy, ledger: Ledger, state: Callable[[Host, float], State]) -> None:
        self._policy = policy
        self._ledger = ledger
        self._state = state

    def standing(self, host: Host, now_s: float) -> Standing:
        """The tier and limit of `host` at `now_s`."""
        return self._policy.standing(self._state(host, now_s))

    def check(self, host: Host, now_s: float) -> Decision:
        """Reserves one message for `host`, or says why not."""
        standing = self.standing(host, now_s)
        entry = self._ledger.reserve(host, standing.limit, now_s)
        return Decision(host, standing.tier, standing.limit, self._policy.limits.window_s,
                        entry.used, _reason(entry.granted, entry.full, standing.tier), entry.retry_s)

    def settle(self, host: Host, now_s: float) -> None:
        """The reserved message was accepted."""
        self._ledger.settle(host, now_s)

    def release(self, host: Host) -> None:
        """The reserved message will not come."""
        self._ledger.release(host)


def _reason(granted: bool, full: bool, tier: Tier) -> Reason:
    if granted:
        return ""
    if full:
        return "full"
    return "held" if tier is Tier.HELD else "messages"
