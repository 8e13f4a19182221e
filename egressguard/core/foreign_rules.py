"""Which of other tables' rules touch outgoing SMTP before or beside ours, from `nft -j list ruleset`.

Another table's accept is no harm: it ends only its own base chain. What harms is what changes the port or the
path of a packet, or stops it before it is counted. In doubt a rule concerns SMTP: somebody should look at it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from egressguard.core.ruleset import TABLE

OUR_PRIORITY = -10
PORT = 25
EARLY_HOOKS = ("ingress", "prerouting")
VERBS = ("notrack", "dnat", "redirect", "tproxy", "fwd", "dup", "masquerade", "drop", "reject")
# iptables-nft leaves these to the kernel's xtables modules; nft tells the name alone, so CT may be NOTRACK.
TARGETS = {"DNAT": "dnat", "NETMAP": "dnat", "REDIRECT": "redirect", "TPROXY": "tproxy", "NOTRACK": "notrack",
           "CT": "notrack", "MASQUERADE": "masquerade", "TEE": "dup", "REJECT": "reject", "DROP": "drop"}
HARMLESS_TARGETS = frozenset({
    "ACCEPT", "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "DSCP", "ECN", "HL", "HMARK",
    "IDLETIMER", "LED", "LOG", "MARK", "NFLOG", "NFQUEUE", "RATEEST", "RETURN", "SECMARK", "SET", "SNAT",
    "SYNPROXY", "TCPMSS", "TCPOPTSTRIP", "TOS", "TTL"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that may concern outgoing SMTP: where it stands, the verb, and what it says.

    `exact` tells that it names port 25; `port` is the new one, None when the port stays. `hidden` tells that
    a part of it is iptables' own, of which nft tells the name alone: its port and conditions are unknown.
    """

    place: str
    hook: str
    priority: int
    verb: str
    exact: bool
    text: str
    port: int | None = None
    hidden: frozenset[str] = frozenset()

    @property
    def early(self) -> bool:
        """Whether a forwarded packet meets it before our rules."""
        return self.hook in EARLY_HOOKS or (self.hook == "forward" and self.priority < OUR_PRIORITY)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Other tables' rules that may concern SMTP, and every flowtable (place, devices)."""

    rules: tuple[Rule, ...] = ()
    flowtables: tuple[tuple[str, tuple[str, ...]], ...] = ()


def foreign(listing: Iterable[Mapping[str, Any]], inside: frozenset[str], own: frozenset[str]) -> Foreign:
    """What matters in `listing`, the objects of nft's JSON; `own` are this machine's addresses."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for entry in listing:
        for kind, value in entry.items():
            if isinstance(value, Mapping) and value.get("table") != TABLE:
                kinds.setdefault(kind, []).append(value)
    reached = _reached(kinds.get("chain", []), kinds.get("rule", []))
    rules = [rule for value in kinds.get("rule", []) for base in reached.get(_chain(value), ())
             for rule in _rules(value, base, inside, own)]
    return Foreign(tuple(dict.fromkeys(rules)), tuple(_flowtable(f) for f in kinds.get("flowtable", [])))


def _flowtable(value: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    devices = value.get("dev", ())
    listed = (devices,) if isinstance(devices, str) else tuple(devices)
    return f"{value['family']} {value['table']} flowtable {value['name']}", listed


Chain = tuple[str, str, str]


def _chain(value: Mapping[str, Any], name: str = "chain") -> Chain:
    return value["family"], value["table"], value[name]


def _reached(chains: list[Mapping[str, Any]], rules: list[Mapping[str, Any]]
             ) -> dict[Chain, set[tuple[str, int]]]:
    """Every chain with the hooks and priorities of the base chains that lead to it."""
    targets: dict[Chain, set[Chain]] = {}
    for rule in rules:
        here = _chain(rule)
        targets.setdefault(here, set()).update((*here[:2], t) for t in _targets(rule.get("expr", [])))
    reached: dict[Chain, set[tuple[str, int]]] = {}
    for base in chains:
        if "hook" not in base:
            continue
        waiting = [_chain(base, "name")]
        while waiting:
            chain = waiting.pop()
            if (hook := (base["hook"], int(base["prio"]))) not in reached.setdefault(chain, set()):
                reached[chain].add(hook)
                waiting += targets.get(chain, ())
    return reached


def _targets(value: Any) -> Iterator[str]:
    """The chains that are jumped to anywhere in `value`, verdict maps included."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("jump", "goto") and isinstance(inner, Mapping):
                yield inner["target"]
            yield from _targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _targets(inner)


def _rules(value: Mapping[str, Any], base: tuple[str, int], inside: frozenset[str],
           own: frozenset[str]) -> Iterator[Rule]:
    expressions = [e for e in value.get("expr", []) if isinstance(e, Mapping)]
    matches = [e["match"] for e in expressions if "match" in e]
    others = [match for match in matches if not _is_port(match.get("left"))]
    if not all(_may_match(match, inside, own) for match in others):
        return
    smtp = all(_may_match(match, inside, own) for match in matches)
    exact = any(_names_port(match) for match in matches)
    place = f"{value['family']} {value['table']} {value['chain']}"
    hidden = frozenset(e["xt"]["type"] for e in expressions if isinstance(e.get("xt"), Mapping))
    for expression in expressions:
        for key, what in expression.items():
            verb = _target(what) if key == "xt" else key
            # What becomes port 25 after our rules concerns us as much as what ceases to be it before them.
            rewritten = verb == "mangle" and _is_port(what.get("key")) and (smtp or _port(what) == PORT)
            if rewritten or (smtp and verb in (*VERBS, "xt")):
                yield Rule(place, *base, verb, exact, json.dumps(expressions, sort_keys=True), _port(what),
                           hidden)


def _target(what: Any) -> str:
    """The verb of iptables' own part: "" for what judges nothing, `xt` for a target that nobody knows."""
    if not isinstance(what, Mapping) or what.get("type") != "target":
        return ""
    name = str(what.get("name"))
    return "" if name in HARMLESS_TARGETS else TARGETS.get(name, "xt")


def _port(what: Any) -> int | None:
    value = what.get("port", what.get("value")) if isinstance(what, Mapping) else None
    return value if isinstance(value, int) else None


def _may_match(match: Mapping[str, Any], inside: frozenset[str], own: frozenset[str]) -> bool:
    """Whether an outgoing SMTP packet from an inside interface can meet this condition."""
    left, right = match.get("left"), match.get("right")
    equal = match.get("op") in ("==", "in")
    if _is_port(left):
        return _holds(right, PORT) is equal or isinstance(right, str)
    if not isinstance(left, Mapping) or not equal:
        return True
    key = left.get("meta", {}).get("key") if isinstance(left.get("meta"), Mapping) else None
    if key in ("iifname", "iif"):
        return any(_holds(right, name) for name in inside) or _named_set(right)
    if key in ("l4proto",) or _field(left) in (("ip", "protocol"), ("ip6", "nexthdr")):
        return _holds(right, "tcp") or _holds(right, 6) or _named_set(right)
    if _field(left) in (("ip", "daddr"), ("ip6", "daddr")):
        return not (isinstance(right, str) and right in own)
    if "fib" in left:  # `fib daddr type local`: towards this machine, so not outgoing
        return right != "local"
    return _field(left)[0] not in ("udp", "icmp", "icmpv6", "sctp")


def _named_set(right: Any) -> bool:
    return isinstance(right, str) and right.startswith("@")


def _field(left: Any) -> tuple[str, str]:
    payload = left.get("payload") if isinstance(left, Mapping) else None
    if not isinstance(payload, Mapping):
        return "", ""
    return payload.get("protocol", ""), payload.get("field", "")


def _is_port(left: Any) -> bool:
    return _field(left) in (("tcp", "dport"), ("th", "dport"))


def _names_port(match: Mapping[str, Any]) -> bool:
    return (_is_port(match.get("left")) and match.get("op") in ("==", "in")
            and _holds(match.get("right"), PORT))


def _holds(right: Any, value: object) -> bool:
    """Whether `value` is, or is in, what a condition compares with: a value, a list, a set or a range."""
    if isinstance(right, list):
        return any(_holds(inner, value) for inner in right)
    if isinstance(right, Mapping):
        if "range" in right:
            low, high = right["range"]
            return isinstance(value, int) and isinstance(low, int) and low <= value <= high
        return _holds(right.get("set", right.get("elem")), value)
    if isinstance(right, str) and right.endswith("*"):  # `iifname "eth*"`, and iptables' `-i eth+`
        return isinstance(value, str) and value.startswith(right[:-1])
    return bool(right == value)
