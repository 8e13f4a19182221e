"""The relay's configuration as frozen values; every field name is the key in the file.

A verdict can only tighten: factors lie in (0, 1], and the worse verdict never gets the larger one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from egressguard.core.documents import MAX_LIFETIME_S, MAX_NAME_LENGTH
from egressguard.core.errors import Mistake
from egressguard.core.exchange_url import url_mistakes
from egressguard.core.verdict import State, Tier
from egressguard.toml_file import read
from egressguard_milter.endpoint import parse_endpoint

DEFAULT_PATH = Path("/etc/egressguard/egressguard-milter.toml")


@dataclass(frozen=True, slots=True)
class Base:
    """What a client may do without any verdict: `messages` accepted in any `window_s` seconds."""

    messages: int = 40
    window_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What one verdict does to the base limit: `tightened` multiplies it, `held` defers everything."""

    factor: float | None = None
    tier: Literal["tightened", "held"] = "tightened"

    @property
    def share(self) -> float:
        """The part of the base limit that remains; 0 when held."""
        return 0.0 if self.tier == "held" or self.factor is None else self.factor


@dataclass(frozen=True, slots=True)
class Tiers:
    """The rule for each verdict that is not clean."""

    suspect: Rule = field(default_factory=lambda: Rule(0.5))
    compromised: Rule = field(default_factory=lambda: Rule(0.1))


@dataclass(frozen=True, slots=True)
class Standing:
    """What a relay does with one client now: its tier, and its limit in messages per window."""

    tier: Tier
    limit: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One relay's configuration."""

    relay: str = "relay"
    socket: str = "inet:8892@127.0.0.1"
    exchange: str = "sqlite:/var/lib/egressguard/exchange/exchange.db"
    limits: Base = field(default_factory=Base)
    tiers: Tiers = field(default_factory=Tiers)
    signal_poll_s: float = 0.2
    report_lifetime_s: float = 30.0
    max_clients: int = 100_000

    def standing(self, state: State) -> Standing:
        """The tier and limit that `state` means; a tightened limit never falls below one message."""
        if state is State.CLEAN:
            return Standing(Tier.NORMAL, self.limits.messages)
        rule = self.tiers.suspect if state is State.SUSPECT else self.tiers.compromised
        if rule.tier == "held":
            return Standing(Tier.HELD, 0)
        # Rounded first: 100 × 0.29 is 28.999… in binary, and the administrator meant 29.
        tightened = math.floor(round(self.limits.messages * rule.share, 6))
        return Standing(Tier.TIGHTENED, max(1, tightened))


def read_policy(path: Path) -> Policy:
    """The policy in `path`. Raises ConfigError with every mistake."""
    return read(path, Policy, mistakes)


def mistakes(policy: Policy) -> Iterator[Mistake]:
    """Everything wrong with `policy` that its types do not tell."""
    if not (0 < len(policy.relay) <= MAX_NAME_LENGTH and policy.relay.isprintable()
            and policy.relay.strip()):
        yield Mistake("relay", f"{policy.relay[:80]!r} is no name: use 1 to {MAX_NAME_LENGTH} "
                               "printable characters, unique among the relays")
    try:
        parse_endpoint(policy.socket)
    except ValueError as error:
        yield Mistake("socket", str(error))
    yield from url_mistakes(policy.exchange)
    yield from _number_mistakes(policy)
    yield from _tier_mistakes(policy.tiers)


def _number_mistakes(policy: Policy) -> Iterator[Mistake]:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        # One time stamp of 8 bytes per message and client is kept: the upper bound is one of memory.
        ("limits.messages", policy.limits.messages, 1, 100_000),
        ("limits.window_s", policy.limits.window_s, 1, 86400),
        ("signal_poll_s", policy.signal_poll_s, 0.05, 10),
        ("report_lifetime_s", policy.report_lifetime_s, 1, MAX_LIFETIME_S),
        ("max_clients", policy.max_clients, 1, 10_000_000),
    )
    for key, value, low, high in bounds:
        if not (math.isfinite(value) and low <= value <= high):
            yield Mistake(key, f"{value} is out of range: {low:g} to {high:g}")


def _tier_mistakes(tiers: Tiers) -> Iterator[Mistake]:
    for name, rule in (("suspect", tiers.suspect), ("compromised", tiers.compromised)):
        if rule.tier == "tightened" and rule.factor is None:
            yield Mistake(f"tiers.{name}.factor", 'is missing: give a factor, or tier = "held"')
        if rule.factor is not None and not 0 < rule.factor <= 1:
            yield Mistake(f"tiers.{name}.factor", f"{rule.factor} is out of range: above 0 and at "
                                                  "most 1, since a verdict can only tighten")
    if tiers.compromised.share > tiers.suspect.share:
        yield Mistake("tiers.compromised", "is milder than tiers.suspect: the worse verdict must not "
                                           "leave a client more")
