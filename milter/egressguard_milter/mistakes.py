"""Reads the policy; everything wrong with it that its types do not tell is named at once."""

import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from egressguard.core.documents import MAX_LIFETIME_S, MAX_NAME_LENGTH
from egressguard.core.errors import ConfigError, Mistake
from egressguard.core.exchange_url import url_mistakes
from egressguard.core.metrics_place import place_mistakes
from egressguard.toml_file import read
from egressguard_milter.endpoint import UNIX_PATH_LENGTH, parse_endpoint
from egressguard_milter.matching import parse_match, parse_sender
from egressguard_milter.policy import LEVELS, RATES, Also, Policy, Rates, Rule, Terms, Tiers

MAX_COUNT = 1_000_000
MIN_WINDOW_S, MAX_WINDOW_S = 1.0, 30 * 86400.0
PLACE = re.compile(r"""^\s*(relay|exchange|state)\s*=\s*(["'])([^"'\\\n]*)\2\s*(?:\#.*)?$""", re.MULTILINE)
LIMITS = (*RATES, *LEVELS)
KEY_LIMITS = ("messages", "recipients", "recipients_per_message")


def read_policy(path: Path) -> Policy:
    """The policy in `path`. Raises ConfigError with every mistake."""
    return read(path, "egressguard-milter", Policy, mistakes)


def read_control_path(path: Path) -> Path:
    """The control socket that `path` names, even if what is in it is wrong: a milter may be running.

    Raises ConfigError when the file cannot be read at all, or names no folder that could hold it.
    """
    try:
        return read_policy(path).control_path
    except ConfigError as error:
        try:
            named = _places(path.read_text("utf-8", "replace"))
        except OSError:
            raise error from None
        policy = Policy(**named)
        if any(_state_mistakes(policy)):
            raise error from None
        return policy.control_path


def _places(text: str) -> dict[str, Any]:
    """What the state folder follows from; line by line where the text is no TOML."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError):
        head = re.split(r"^\s*\[", text, maxsplit=1, flags=re.MULTILINE)[0]
        table = {key: value for key, _, value in PLACE.findall(head)}
    return {key: table[key] for key in ("relay", "exchange", "state") if isinstance(table.get(key), str)}


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
    yield from url_mistakes(policy.exchange, policy.exchange_key)
    yield from place_mistakes(policy.metrics)
    yield from _state_mistakes(policy)
    yield from _number_mistakes(policy)
    yield from _limit_mistakes(policy)
    yield from _client_mistakes(policy)
    yield from _key_mistakes("sender", policy)
    yield from _key_mistakes("login", policy)
    yield from _tier_mistakes(policy.tiers)


def _state_mistakes(policy: Policy) -> Iterator[Mistake]:
    if policy.state and not policy.state.startswith("/"):
        yield Mistake("state", f"{policy.state!r}: must be an absolute path")
    elif policy.state and len(str(policy.control_path).encode()) > UNIX_PATH_LENGTH:
        yield Mistake("state", f"{policy.state[:80]!r}: is too long for the control socket in it")


def _number_mistakes(policy: Policy) -> Iterator[Mistake]:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("signal_poll_s", policy.signal_poll_s, 0.05, 10),
        ("report_lifetime_s", policy.report_lifetime_s, 1, MAX_LIFETIME_S),
        ("relays", policy.relays, 1, 1000),
        ("max_clients", policy.max_clients, 1, 10_000_000),
        ("max_sessions", policy.max_sessions, 1, 1_000_000),
        ("max_sessions_per_client", policy.max_sessions_per_client, 1, 1_000_000),
    )
    for key, value, low, high in bounds:
        yield from _range(key, value, low, high)


def _range(key: str, value: float, low: float, high: float) -> Iterator[Mistake]:
    if not (math.isfinite(value) and low <= value <= high):
        yield Mistake(key, f"{value} is out of range: {low:.10g} to {high:.10g}")


def _limit_mistakes(policy: Policy) -> Iterator[Mistake]:
    yield from _terms_mistakes("limits", policy.limits, LIMITS)
    for name, group in policy.groups.items():
        yield from _terms_mistakes(f"groups.{name}", group, LIMITS)
        yield from _rates_mistakes(f"groups.{name}.shared", group.shared, RATES)
    for number, rule in enumerate(policy.client):
        yield from _terms_mistakes(f"client.{number}", rule, LIMITS)
        yield from _rates_mistakes(f"client.{number}.shared", rule.shared, RATES)


def _terms_mistakes(key: str, terms: Terms, known: Iterable[str]) -> Iterator[Mistake]:
    yield from _rates_mistakes(key, terms, RATES)
    for level in LEVELS:
        if (most := getattr(terms, level)) is not None:
            yield from _range(f"{key}.{level}", most, 1, MAX_COUNT)
    yield from _unlimited_mistakes(key, terms.unlimited, known)


def _unlimited_mistakes(key: str, unlimited: Iterable[str], known: Iterable[str]) -> Iterator[Mistake]:
    for name in unlimited:
        if name not in known:
            yield Mistake(f"{key}.unlimited", f"{name[:80]!r} is no limit: use {', '.join(known)}")


def _rates_mistakes(key: str, rates: Rates, known: Iterable[str]) -> Iterator[Mistake]:
    parts: list[tuple[str, Rates | Also]] = [(key, rates)]
    parts += [(f"{key}.also.{n}", also) for n, also in enumerate(rates.also)]
    for place, counts in parts:
        if (window_s := counts.window_s) is not None:
            yield from _range(f"{place}.window_s", window_s, MIN_WINDOW_S, MAX_WINDOW_S)
        for name in RATES:
            if (most := getattr(counts, name)) is None:
                continue
            yield from _range(f"{place}.{name}", most, 1, MAX_COUNT)
            if name not in known:
                yield Mistake(f"{place}.{name}", "cannot be limited here")


def _client_mistakes(policy: Policy) -> Iterator[Mistake]:
    seen: dict[object, str] = {}
    for number, rule in enumerate(policy.client):
        key = f"client.{number}.match"
        if not rule.match:
            yield Mistake(key, "is missing: name addresses, networks or host names", needs=(key,))
        for text in rule.match:
            try:
                matched = parse_match(text)
            except ValueError as error:
                yield Mistake(key, str(error))
                continue
            if matched in seen:
                yield Mistake(key, f"{text!r} stands in {seen[matched]} already")
            seen.setdefault(matched, key)
        if rule.group and rule.group not in policy.groups:
            yield Mistake(f"client.{number}.group", f"{rule.group[:80]!r} is not defined: "
                                                    f"write [groups.{rule.group[:80]}]",
                          needs=(f"groups.{rule.group}",))


def _key_mistakes(kind: str, policy: Policy) -> Iterator[Mistake]:
    defaults = getattr(policy, f"{kind}_limits")
    yield from _rates_mistakes(f"{kind}_limits", defaults, KEY_LIMITS)
    yield from _unlimited_mistakes(f"{kind}_limits", defaults.unlimited, KEY_LIMITS)
    seen: set[str] = set()
    for number, rule in enumerate(getattr(policy, kind)):
        key = f"{kind}.{number}"
        yield from _rates_mistakes(key, rule, KEY_LIMITS)
        yield from _unlimited_mistakes(key, rule.unlimited, KEY_LIMITS)
        if not rule.match:
            yield Mistake(f"{key}.match", "is missing", needs=(f"{key}.match",))
        for text in rule.match:
            try:
                matched = parse_sender(text) if kind == "sender" else text.lower()
            except ValueError as error:
                yield Mistake(f"{key}.match", str(error))
                continue
            if not matched or matched in seen:
                yield Mistake(f"{key}.match", f"{text[:80]!r} is empty or stands in a rule already")
            seen.add(matched)


def _tier_mistakes(tiers: Tiers) -> Iterator[Mistake]:
    for name, rule in (("suspect", tiers.suspect), ("compromised", tiers.compromised)):
        yield from _rule_mistakes(f"tiers.{name}", rule)
    if _has_shares(tiers.suspect) and _has_shares(tiers.compromised) and any(
            tiers.compromised.share(limit) > tiers.suspect.share(limit) for limit in LIMITS):
        yield Mistake("tiers.compromised", "is milder than tiers.suspect: the worse verdict must not leave a "
                                           "client more", needs=("tiers.suspect", "tiers.compromised"))


def _has_shares(rule: Rule) -> bool:
    """Whether its factors can be compared; those that are wrong have a mistake of their own."""
    return rule.tier == "held" or (
        rule.factor is not None and all(0 < factor <= 1 for factor in (rule.factor, *rule.factors.values())))


def _rule_mistakes(key: str, rule: Rule) -> Iterator[Mistake]:
    if rule.tier == "tightened" and rule.factor is None:
        yield Mistake(f"{key}.factor", 'is missing: give a factor, or tier = "held"', needs=(f"{key}.tier",))
    if rule.hold_queue and rule.tier != "held":
        yield Mistake(f"{key}.hold_queue", 'needs tier = "held"', needs=(f"{key}.tier",))
    factors = {f"{key}.factors.{name}": factor for name, factor in rule.factors.items()}
    if rule.factor is not None:
        factors[f"{key}.factor"] = rule.factor
    for place, factor in factors.items():
        if not 0 < factor <= 1:
            yield Mistake(place, f"{factor} is out of range: above 0 and at most 1, "
                                 "since a verdict can only tighten")
    for name in rule.factors:
        if name not in LIMITS:
            yield Mistake(f"{key}.factors", f"{name[:80]!r} is no limit: use {', '.join(LIMITS)}")
