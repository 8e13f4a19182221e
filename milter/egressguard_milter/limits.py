"""The decision on one step of a client: its limits, scaled by its verdict, against the ledger.

A verdict can only tighten: every scaled limit lies between one and the limit without a verdict.
"""

import math
import threading
from collections.abc import Callable, Sequence

from egressguard.core.hosts import Address, Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.account import Kind
from egressguard_milter.decision import Decision, Limit, Standing, refused
from egressguard_milter.ledger import Cap, Claim, Hold, Ledger, Refusal
from egressguard_milter.policy import RATES, Policy, Rule
from egressguard_milter.terms import Allowance, Directory

SESSIONS_RETRY_S = 10.0
HELD_RETRY_S = 600.0


class Limits:
    """Checks clients against a policy; `state` tells the verdict on a host at a time."""

    def __init__(self, policy: Policy, ledger: Ledger, state: Callable[[Host, float], State]) -> None:
        self._ledger = ledger
        self._state = state
        self._lock = threading.Lock()
        self.sessions = 0
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Another policy from now on; what was counted stays."""
        directory = Directory(policy)
        self._ledger.resize(policy.horizon_s, policy.max_clients)
        self.policy, self.directory = policy, directory

    def standing(self, allowance: Allowance, now_s: float) -> Standing:
        """The tier of a client at `now_s`, and its limit of messages (0: held or unlimited)."""
        return self.standing_under(allowance, self._state(allowance.host, now_s))

    def standing_under(self, allowance: Allowance, state: State) -> Standing:
        """What `standing` is under a verdict."""
        rule = self._rule(state)
        if rule is None:
            return allowance.standing
        caps = self.claim(allowance, state).caps
        messages = next((cap.most for cap in caps if cap.kind is Kind.MESSAGES), 0)
        if rule.tier == "held":
            return Standing(Tier.HELD, messages if rule.hold_queue else 0, state, rule.hold_queue)
        return Standing(Tier.TIGHTENED, messages, state)

    def claim(self, allowance: Allowance, state: State) -> Claim:
        """The client's own limits under a verdict."""
        rule = self._rule(state)
        if rule is None or rule.tier == "held":
            return allowance.claim
        caps = tuple(cap._replace(most=tightened(cap.most, rule.share(RATES[cap.kind])))
                     for cap in allowance.claim.caps)
        return allowance.claim._replace(caps=caps)

    def level(self, allowance: Allowance, name: str, state: State) -> int | None:
        """One of the client's limits that know no time, under a verdict."""
        most, rule = allowance.levels.get(name), self._rule(state)
        if most is None or rule is None or rule.tier == "held":
            return most
        return tightened(most, rule.share(name))

    def open(self, allowance: Allowance, now_s: float) -> tuple[Decision, Hold | None]:
        """A client has connected; the hold keeps its connection open."""
        with self._lock:
            full = self.sessions >= self.policy.max_sessions
            self.sessions += not full
        if full:
            return Decision(allowance.host, limit="sessions", key="all clients", used=self.sessions,
                            most=self.policy.max_sessions, retry_s=SESSIONS_RETRY_S), None
        standing = self.standing(allowance, now_s)
        claims = [self.claim(allowance, standing.verdict), *allowance.shared]
        most = self.level(allowance, "open_connections", standing.verdict)
        answer = self._ledger.connect(claims, most, now_s)
        if isinstance(answer, Refusal):
            self._leave()
            return refused(allowance.host, standing, answer), None
        return Decision(allowance.host, standing.tier, standing.verdict), answer

    def close(self, connection: Hold, now_s: float) -> None:
        """The client has gone."""
        self._ledger.release(connection, now_s)
        self._leave()

    def reserve(self, allowance: Allowance, standing: Standing, others: Sequence[Claim],
                now_s: float) -> tuple[Decision, Hold | None]:
        """One message, with one recipient, of the client and of all `others` that pay for it."""
        if standing.tier is Tier.HELD and not standing.hold_queue:
            return Decision(allowance.host, standing.tier, standing.verdict, "held", allowance.host,
                            retry_s=HELD_RETRY_S), None
        claims = [self.claim(allowance, standing.verdict), *allowance.shared, *others]
        answer = self._ledger.reserve(claims, now_s)
        if isinstance(answer, Refusal):
            return refused(allowance.host, standing, answer), None
        return Decision(allowance.host, standing.tier, standing.verdict), answer

    def extend(self, allowance: Allowance, hold: Hold, now_s: float) -> Decision:
        """One recipient more for a reserved message."""
        refusal = self._ledger.extend(hold, now_s)
        if refusal is not None:
            return refused(allowance.host, self.standing(allowance, now_s), refusal)
        return Decision(allowance.host)

    def settle(self, hold: Hold, recipients: int, now_s: float) -> None:
        """The reserved message was accepted for so many recipients."""
        self._ledger.settle(hold, recipients, now_s)

    def release(self, hold: Hold, now_s: float) -> None:
        """The reserved message will not come."""
        self._ledger.release(hold, now_s)

    def recipient_refused(self, allowance: Allowance, now_s: float) -> Decision:
        """The MTA refused a recipient; the decision says whether the client may name another one."""
        standing = self.standing(allowance, now_s)
        claim = self.claim(allowance, standing.verdict)
        caps = [cap for cap in claim.caps if cap.kind is Kind.REFUSED]
        if caps:
            self._ledger.refused_recipient(claim, now_s)
        for cap, used in zip(caps, self._ledger.usage(claim.key, caps, now_s) if caps else (), strict=True):
            if used >= cap.most:
                refusal = Refusal(claim.key, cap, cap.most, used, cap.window_s)
                return refused(allowance.host, standing, refusal)
        return Decision(allowance.host, standing.tier, standing.verdict)

    def exceeded(self, allowance: Allowance, name: Limit, used: int, most: int | None,
                 now_s: float) -> Decision | None:
        """The decision when `used` has reached `most`, one of the limits that know no time."""
        if most is None or used < most:
            return None
        standing = self.standing(allowance, now_s)
        return Decision(allowance.host, standing.tier, standing.verdict, name, allowance.host, most, used)

    def usage(self, key: str, caps: Sequence[Cap], now_s: float) -> list[int]:
        """What counts against each cap of `key`."""
        return self._ledger.usage(key, caps, now_s)

    def allowance(self, address: Address | None, name: str = "") -> Allowance:
        """What the policy says about a client."""
        return self.directory.client(address, name)

    def _rule(self, state: State) -> Rule | None:
        if state is State.CLEAN:
            return None
        return self.policy.tiers.suspect if state is State.SUSPECT else self.policy.tiers.compromised

    def _leave(self) -> None:
        with self._lock:
            self.sessions -= 1


def tightened(most: int, share: float) -> int:
    """`share` of `most`, but one at the least.

    Rounded first: 100 × 0.29 is 28.999… in binary, and the administrator meant 29.
    """
    return max(1, math.floor(round(most * share, 6)))
