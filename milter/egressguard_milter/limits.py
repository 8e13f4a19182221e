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
from egressguard_milter.terms import Allowance, Directory, Scaled

SESSIONS_RETRY_S = 10.0
HELD_RETRY_S = 600.0
RECENT_S = 60.0  # for so long a status names what went wrong
HELD = Tier.HELD


class Limits:
    """Checks clients against a policy; `state` tells the verdict on a host at a time."""

    def __init__(self, policy: Policy, ledger: Ledger, state: Callable[[Host, float], State]) -> None:
        self._ledger = ledger
        self._state = state
        self._lock = threading.Lock()
        self.sessions = 0
        self._full_s = float("-inf")
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Another policy from now on; what was counted stays."""
        directory = Directory(policy)
        self._ledger.resize(policy.horizon_s, policy.max_clients, policy.windows_s)
        self.policy, self.directory = policy, directory

    def scaled(self, allowance: Allowance, now_s: float) -> Scaled:
        """What a client may do at `now_s`."""
        state = self._state(allowance.host, now_s)
        return allowance.scaled.get(state) or self.scaled_under(allowance, state)

    def scaled_under(self, allowance: Allowance, state: State) -> Scaled:
        """What a client may do under a verdict."""
        found = allowance.scaled.get(state)
        if found is None:
            found = allowance.scaled[state] = _scale(allowance, state, self._rule(state))
        return found

    def open(self, allowance: Allowance, now_s: float) -> tuple[Decision, Hold | None]:
        """A client has connected; the hold keeps its connection open."""
        with self._lock:
            full = self.sessions >= self.policy.max_sessions
            self.sessions += not full
        if full:
            self._full_s = now_s
            return Decision(allowance.host, limit="sessions", key="all clients", used=self.sessions,
                            most=self.policy.max_sessions, retry_s=SESSIONS_RETRY_S), None
        scaled = self.scaled(allowance, now_s)
        answer = self._ledger.connect(scaled.claims, scaled.levels.get("open_connections"), now_s)
        if isinstance(answer, Refusal):
            self._leave()
            return refused(allowance.host, scaled.standing, answer), None
        return scaled.accepted, answer

    def close(self, connection: Hold, now_s: float) -> None:
        """The client has gone."""
        self._ledger.release(connection, now_s)
        self._leave()

    def reserve(self, scaled: Scaled, claims: Sequence[Claim], now_s: float) -> tuple[Decision, Hold | None]:
        """One message, with one recipient, of all `claims` that pay for it: the client's and others'."""
        standing, host = scaled.standing, scaled.accepted.host
        if standing.tier is HELD and not standing.hold_queue:
            return Decision(host, standing.tier, standing.verdict, "held", host, retry_s=HELD_RETRY_S), None
        answer = self._ledger.reserve(claims, now_s)
        if isinstance(answer, Refusal):
            return refused(host, standing, answer), None
        return scaled.accepted, answer

    def extend(self, scaled: Scaled, hold: Hold, now_s: float) -> Decision:
        """One recipient more for a reserved message."""
        refusal = self._ledger.extend(hold, now_s)
        if refusal is not None:
            return refused(scaled.accepted.host, scaled.standing, refusal)
        return scaled.accepted

    def settle(self, hold: Hold, recipients: int, now_s: float) -> None:
        """The reserved message was accepted for so many recipients."""
        self._ledger.settle(hold, recipients, now_s)

    def release(self, hold: Hold, now_s: float) -> None:
        """The reserved message will not come."""
        self._ledger.release(hold, now_s)

    def recipient_refused(self, allowance: Allowance, now_s: float) -> Decision:
        """The MTA refused a recipient; the decision says whether the client may name another one."""
        scaled = self.scaled(allowance, now_s)
        refusal = self._ledger.refused_recipient(scaled.claims[0], now_s)
        if refusal is not None:
            return refused(allowance.host, scaled.standing, refusal)
        return scaled.accepted

    def fault(self, now_s: float) -> str:
        """Says when clients were told to come back because of all the others, a short while ago."""
        return "" if now_s - self._full_s > RECENT_S else (
            f"no connection more was let in: {self.policy.max_sessions} were open (max_sessions)")

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


def exceeded(scaled: Scaled, name: Limit, used: int, most: int) -> Decision:
    """The decision when `used` has reached `most`, one of the limits that know no time."""
    host = scaled.accepted.host
    return Decision(host, scaled.standing.tier, scaled.standing.verdict, name, host, most, used)


def _scale(allowance: Allowance, state: State, rule: Rule | None) -> Scaled:
    """An allowance under a verdict; a tier that holds the client leaves its limits as they are."""
    caps, levels = allowance.claim.caps, allowance.levels
    if rule is not None and rule.tier != "held":
        if state is State.COMPROMISED:  # a part of unlimited is unlimited still
            caps = tuple(sorted((*caps, *allowance.unlimited_caps)))
            levels = {**allowance.unlimited_levels, **levels}
        caps = tuple(cap._replace(most=tightened(cap.most, rule.share(RATES[cap.kind]))) for cap in caps)
        levels = {name: tightened(most, rule.share(name)) for name, most in levels.items()}
    standing = _standing(allowance, caps, state, rule)
    return Scaled(standing, (allowance.claim._replace(caps=caps), *allowance.shared), levels,
                  Decision(allowance.host, standing.tier, state))


def _standing(allowance: Allowance, caps: Sequence[Cap], state: State, rule: Rule | None) -> Standing:
    """The tier, and the limit of messages (0: held or unlimited)."""
    if rule is None:
        return allowance.standing
    messages = next((cap.most for cap in caps if cap.kind is Kind.MESSAGES), 0)
    if rule.tier == "held":
        return Standing(Tier.HELD, messages if rule.hold_queue else 0, state, rule.hold_queue)
    return Standing(Tier.TIGHTENED, messages, state)


def tightened(most: int, share: float) -> int:
    """`share` of `most`, but one at the least.

    Rounded first: 100 × 0.29 is 28.999… in binary, and the administrator meant 29.
    """
    return max(1, math.floor(round(most * share, 6)))
