"""What one client, sender or login may do: the most specific entry of the policy that says something.

Each limit is looked up on its own: full address → networks, the longest prefix first → host name and its
parents → group → [limits].
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import NamedTuple

from egressguard.core.hosts import Address, Host, host_of
from egressguard.core.verdict import State, Tier
from egressguard_milter.account import Kind, Pool
from egressguard_milter.decision import Decision, Standing
from egressguard_milter.ledger import Cap, Claim
from egressguard_milter.matching import Matcher, parents, parse_match, parse_sender
from egressguard_milter.policy import (
    LEVELS,
    RATES,
    RECIPIENTS_EACH,
    Also,
    Base,
    KeyRates,
    KeyRule,
    Policy,
    Rates,
    Terms,
)

# A connection without a usable address (unix socket, unknown family) is not unlimited: all of them
# are one client. No verdict can name it, because it is no address.
UNADDRESSED = Host("unaddressed")
NEIGHBOUR_LENGTH = {4: 24, 6: 48}  # the networks in which strangers share when there is no room
NULL_SENDER = "<>"
MAX_KEY = 200
CACHED_SENDERS = 4096
UNJUDGED = Standing(Tier.NORMAL, 0)
Payer = tuple[Claim, int | None] | None


class Scaled(NamedTuple):
    """What one client may do under one verdict, and the decision that lets it; made once, used at each step.

    The first of `claims` is the client's own, the others are shared budgets.
    """

    standing: Standing
    claims: tuple[Claim, ...]
    levels: Mapping[str, int]
    accepted: Decision


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one client may do without any verdict; `sources` says which part of the policy decided.

    `unlimited_…` are the limits that a compromised client has all the same; `scaled` keeps what was asked for
    under each verdict.
    """

    host: Host
    claim: Claim
    shared: tuple[Claim, ...] = ()
    levels: dict[str, int] = field(default_factory=dict)
    group: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    standing: Standing = UNJUDGED
    unlimited_caps: tuple[Cap, ...] = ()
    unlimited_levels: dict[str, int] = field(default_factory=dict)
    scaled: dict[State, Scaled] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One part of the policy: what it says about each limit. No caps: unlimited. No key: nothing."""

    source: str
    caps: dict[str, tuple[Cap, ...]]
    levels: dict[str, int | None]
    group: str = ""
    shared: Claim | None = None


class Directory:
    """The policy, ready to be asked."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._base_s = policy.limits.window_s or 600.0
        self._base = self._entry("limits", policy.limits)
        self._default = self._entry("limits", replace(policy.limits, unlimited=(), **{
            name: getattr(Base(), name) for name in (*RATES, *LEVELS)
            if getattr(policy.limits, name) is None}))
        self._groups = {name: self._entry(f"groups.{name}", group, shared=group.shared, key=f"group {name}")
                        for name, group in policy.groups.items()}
        rules = [(self._entry(f"client {', '.join(rule.match)}"[:MAX_KEY], rule, rule.group, rule.shared,
                              f"clients {', '.join(rule.match)}"[:MAX_KEY]), rule) for rule in policy.client]
        self._clients = Matcher((parse_match(text), entry) for entry, rule in rules for text in rule.match)
        self._sharing = [*self._groups.values(), *(entry for entry, _ in rules)]
        self._senders = self._key_entries(policy.sender, senders=True)
        self._logins = self._key_entries(policy.login, senders=False)
        self._sender_cache: dict[str, Payer] = {}
        self._sender_base = self._entry("sender_limits", policy.sender_limits)
        self._login_base = self._entry("login_limits", policy.login_limits)

    def client(self, address: Address | None, name: str) -> Allowance:
        """What the client at `address`, whose verified host name is `name`, may do."""
        found = self._clients.find(address, name.lower().strip("."))
        group = next((e.group for e in found if e.group), "")
        chain = [*found, *([self._groups[group]] if group else []), self._base]
        host = host_of(address) if address is not None else UNADDRESSED
        caps, levels, sources = self._said(chain)
        unlimited = [name for name in sources if name not in levels and not _of(caps, name)]
        default_caps, default_levels, _ = self._said([self._default])
        levels["open_connections"] = min(levels.get("open_connections", self._policy.max_sessions_per_client),
                                         self._policy.max_sessions_per_client)
        key = str(address) if address is not None and self._clients.names(address) else host
        claim = Claim(key, caps, Pool.KNOWN if found else Pool.STRANGER, neighbours(address))
        messages = next((cap.most for cap in caps if cap.kind is Kind.MESSAGES), 0)
        return Allowance(host, claim, tuple(e.shared for e in chain if e.shared), levels, group, sources,
                         Standing(Tier.NORMAL, messages),
                         tuple(cap for name in unlimited for cap in _of(default_caps, name)),
                         {name: most for name, most in default_levels.items() if name in unlimited})

    def _said(self, chain: Sequence[Entry]) -> tuple[tuple[Cap, ...], dict[str, int], dict[str, str]]:
        """What a chain says, and what follows for recipients where it says nothing of them."""
        caps, levels, sources = _first_that_says(chain)
        if "recipients" not in sources and self._on("recipients"):
            caps += tuple(Cap(Kind.RECIPIENTS, cap.most * RECIPIENTS_EACH, cap.window_s)
                          for cap in _of(caps, "messages"))
            sources["recipients"] = f"{sources['messages']}, {RECIPIENTS_EACH} for each message" \
                if "messages" in sources else "nothing"
        return tuple(sorted(caps)), levels, sources

    def sender(self, sender: str) -> Payer:
        """What a sender may do, over all clients, and its recipients per message; None: anything."""
        try:
            return self._sender_cache[sender]
        except KeyError:
            if len(self._sender_cache) >= CACHED_SENDERS:
                self._sender_cache.clear()
            payer = self._sender_cache[sender] = self._sender(sender)
            return payer

    def _sender(self, sender: str) -> Payer:
        if not self._policy.checks.senders:
            return None
        entry = next((self._senders[key] for key in _sender_keys(sender) if key in self._senders), None)
        base = [] if sender == NULL_SENDER else [self._sender_base]
        near = f"senders @{sender.rpartition('@')[2]}"[:MAX_KEY] if "@" in sender else ""
        chain = [*([entry] if entry else []), *base]
        return _key_claim(f"sender {sender}"[:MAX_KEY], chain, near, Pool.SENDER)

    def login(self, login: str) -> Payer:
        """What a SASL login may do, over all clients; None: anything.

        Postfix adds the realm to a login when it has one, sendmail does not: a rule without one means any.
        Cases are not told apart, as most SASL back ends do not: Bob is no second login of bob.
        """
        login = login.lower()
        if not login or not self._policy.checks.logins:
            return None
        entry = self._logins.get(login) or self._logins.get(login.partition("@")[0])
        return _key_claim(f"login {login}"[:MAX_KEY], [*([entry] if entry else []), self._login_base], "",
                          Pool.KNOWN)

    def claim(self, key: str) -> Claim | None:
        """What pays under a key as the log names it; None when the policy limits nothing there."""
        kind, _, rest = key.partition(" ")
        if kind in ("sender", "login"):
            payer = self.sender(rest) if kind == "sender" else self.login(rest)
            return payer[0] if payer else None
        return next((e.shared for e in self._sharing if e.shared and e.shared.key == key), None)

    def _entry(self, source: str, rates: Terms | KeyRates, group: str = "", shared: Rates | None = None,
               key: str = "") -> Entry:
        caps = {name: self._caps(name, rates) for name in RATES
                if self._caps(name, rates) or name in rates.unlimited}
        caps |= {name: () for name in rates.unlimited if name in RATES}
        levels: dict[str, int | None] = {name: getattr(rates, name) for name in LEVELS
                                         if self._on(name) and getattr(rates, name, None) is not None}
        levels |= {name: None for name in rates.unlimited if name in LEVELS}
        together = tuple(cap for name in RATES for cap in self._caps(name, shared)) if shared else ()
        return Entry(source, caps, levels, group, Claim(key, together, Pool.KNOWN) if together else None)

    def _caps(self, name: str, rates: Rates) -> tuple[Cap, ...]:
        if not self._on(name):
            return ()
        kind = Kind(RATES.index(name))
        parts: list[Rates | Also] = [rates, *rates.also]
        return tuple(Cap(kind, most, part.window_s or self._base_s) for part in parts
                     if (most := getattr(part, name)) is not None)

    def _on(self, name: str) -> bool:
        return bool(getattr(self._policy.checks, name))

    def _key_entries(self, rules: Iterable[KeyRule], *, senders: bool) -> dict[str, Entry]:
        return {parse_sender(text) if senders else text.lower():
                self._entry(f"{'sender' if senders else 'login'} {text}"[:MAX_KEY], rule)
                for rule in rules for text in rule.match}


def _of(caps: Iterable[Cap], name: str) -> list[Cap]:
    return [cap for cap in caps if RATES[cap.kind] == name]


def neighbours(address: Address | None) -> str:
    """The key that strangers around `address` share when there is no room for each."""
    if address is None:
        return ""
    return f"network {ip_network(f'{address}/{NEIGHBOUR_LENGTH[address.version]}', strict=False)}"


def _sender_keys(sender: str) -> list[str]:
    user, at, domain = sender.rpartition("@")
    return [sender, *parents(domain), *([f"{user}@"] if at else [])]


def _key_claim(key: str, chain: Sequence[Entry], near: str, pool: Pool) -> Payer:
    caps, levels, _ = _first_that_says(chain)
    most = levels.get("recipients_per_message")
    return (Claim(key, caps, pool, near), most) if caps or most is not None else None


def _first_that_says(chain: Sequence[Entry]) -> tuple[tuple[Cap, ...], dict[str, int], dict[str, str]]:
    caps: list[Cap] = []
    levels: dict[str, int] = {}
    sources: dict[str, str] = {}
    for entry in chain:
        for name, said in entry.caps.items():
            if name not in sources:
                sources[name] = entry.source
                caps += said
        for name, most in entry.levels.items():
            if name not in sources:
                sources[name] = entry.source
                if most is not None:
                    levels[name] = most
    return tuple(sorted(caps)), levels, sources
