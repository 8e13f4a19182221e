"""The relay's configuration as frozen values; every field name is the key in the file.

A verdict can only tighten: factors lie in (0, 1], and the worse verdict never gets the larger one.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from egressguard.core.exchange_url import sqlite_path

DEFAULT_PATH = Path("/etc/egressguard/egressguard-milter.toml")
DEFAULT_STATE = Path("/var/lib/egressguard/milter")
RATES = ("connections", "messages", "recipients", "refused_recipients")
LEVELS = ("open_connections", "recipients_per_message", "messages_per_connection")
# Where nothing is said of recipients, so many times the messages are the limit: a limit of messages alone is
# none for whoever names a thousand recipients in each.
RECIPIENTS_EACH = 10


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of each is accepted in one window; None: not limited here."""

    connections: int | None = None
    messages: int | None = None
    recipients: int | None = None
    refused_recipients: int | None = None


@dataclass(frozen=True, slots=True)
class Also(Counts):
    """A further window on the same keys, such as 500 messages in a day."""

    window_s: float = 86400.0


@dataclass(frozen=True, slots=True)
class Rates(Counts):
    """Limits over time: the counts in `window_s` seconds, and further windows. None: the base window."""

    window_s: float | None = None
    also: tuple[Also, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms(Rates):
    """All limits of one client. What is named in `unlimited` is not limited, whatever stands elsewhere."""

    open_connections: int | None = None
    recipients_per_message: int | None = None
    messages_per_connection: int | None = None
    unlimited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Base(Terms):
    """What a client may do that nothing else is said about; see also RECIPIENTS_EACH."""

    messages: int | None = 40
    refused_recipients: int | None = 20
    recipients_per_message: int | None = 100
    window_s: float | None = 600.0


@dataclass(frozen=True, slots=True)
class ClientRule(Terms):
    """What the clients in `match` may do, each of them; `shared` is one budget for all of them together.

    `match` has addresses, networks and host names; a name stands for its subdomains too.
    """

    match: tuple[str, ...] = ()
    group: str = ""
    shared: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True)
class Group(Terms):
    """What the clients of a group may do, each, and `shared`: all of them together."""

    shared: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True)
class KeyRates(Rates):
    """Limits of each envelope sender or SASL login that no rule names."""

    unlimited: tuple[str, ...] = ()
    recipients_per_message: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRule(KeyRates):
    """What the senders (addresses, domains) or logins in `match` may do, each of them."""

    match: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """Which limits are in force at all: ze-filter's CHECK_ switches."""

    connections: bool = True
    messages: bool = True
    recipients: bool = True
    refused_recipients: bool = True
    open_connections: bool = True
    recipients_per_message: bool = True
    messages_per_connection: bool = True
    senders: bool = True
    logins: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """What one verdict does: `tightened` multiplies the limits, `held` defers everything.

    `factors` has a factor of its own for a limit. With `hold_queue` a held client's messages are accepted,
    within the base limits, into the MTA's hold queue.
    """

    factor: float | None = None
    tier: Literal["tightened", "held"] = "tightened"
    factors: dict[str, float] = field(default_factory=dict)
    hold_queue: bool = False

    def share(self, limit: str) -> float:
        """The part of the base limit that remains; 0 when held."""
        return 0.0 if self.tier == "held" else self.factors.get(limit, self.factor or 0.0)


@dataclass(frozen=True, slots=True)
class Tiers:
    """The rule for each verdict that is not clean."""

    suspect: Rule = field(default_factory=lambda: Rule(0.5))
    compromised: Rule = field(default_factory=lambda: Rule(0.05))


@dataclass(frozen=True, slots=True)
class Policy:
    """One relay's configuration."""

    relay: str = "relay"
    socket: str = "inet:8892@127.0.0.1"
    exchange: str = "sqlite:/var/lib/egressguard/exchange/exchange.db"
    exchange_key: str = ""
    relays: int = 1
    state: str = ""
    metrics: str = "127.0.0.1:9726"
    limits: Base = field(default_factory=Base)
    checks: Checks = field(default_factory=Checks)
    client: tuple[ClientRule, ...] = ()
    groups: dict[str, Group] = field(default_factory=dict)
    sender_limits: KeyRates = field(default_factory=KeyRates)
    sender: tuple[KeyRule, ...] = ()
    login_limits: KeyRates = field(default_factory=KeyRates)
    login: tuple[KeyRule, ...] = ()
    tiers: Tiers = field(default_factory=Tiers)
    signal_poll_s: float = 0.2
    report_lifetime_s: float = 30.0
    max_clients: int = 100_000
    max_sessions: int = 20_000
    max_sessions_per_client: int = 200

    @property
    def state_folder(self) -> Path:
        """Where counts and the control socket are: `state`, or a folder beside the exchange's file.

        Beside, so that two relays with two configurations never meet in one folder by default.
        """
        if self.state:
            return Path(self.state)
        try:
            file = sqlite_path(self.exchange)
        except ValueError:
            return DEFAULT_STATE
        beside = Path(file).parent if file else DEFAULT_STATE.parent
        return beside / (re.sub(r"[^A-Za-z0-9_-]", "_", self.relay)[:100] + ".relay")

    @property
    def control_path(self) -> Path:
        """The control socket."""
        return self.state_folder / "control"

    @property
    def horizon_s(self) -> float:
        """The longest window of any limit."""
        return max(self.windows_s)

    @property
    def windows_s(self) -> set[float]:
        """Every window of any limit."""
        base_s = self.limits.window_s or Base().window_s or 0.0
        return {base_s, *(window_s for rates in self._all_rates()
                          for window_s in (rates.window_s or base_s, *(a.window_s for a in rates.also)))}

    def _all_rates(self) -> list[Rates]:
        sharing: list[ClientRule | Group] = [*self.client, *self.groups.values()]
        return [self.limits, self.sender_limits, self.login_limits, *sharing, *(s.shared for s in sharing),
                *self.sender, *self.login]
