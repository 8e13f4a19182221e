"""What an alert says, to whom it may concern: in the words of an abuse desk, with the evidence that a host's
owner needs. Pure: times come in as text.

Everything that somebody else may have written (a program's name, a relay's, a MAC) goes through `clean`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from egressguard.core.attempts import Totals
from egressguard.core.canary import Fate, Run, summary
from egressguard.core.exposure import Exposure
from egressguard.core.verdict import State, Transition

Kind = Literal["verdict", "exposure", "overflow", "canary", "exchange", "limit", "test"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LONGEST_VALUE, LONGEST_TITLE = 300, 150
SAMPLE = 20
TO_DO = (
    "What to do",
    "  1. On the host, find the process that connects: ss -tnp state syn-sent, or the logs of the web",
    "     server and of PHP around the times above (POST requests, mail() calls, new files below the",
    "     document root).",
    "  2. If it is a break-in: take the host off the net or restore it, change every password and key",
    "     that was on it, and only then let it back. Updating alone does not remove who is inside.",
    "  3. If it is an application or a mail server that should send mail: point it to the relay instead of",
    "     the outside, or have it named as a sender in the configuration of these routers.",
    "  4. Then tell the operators of this router. Until then direct SMTP stays refused, and the relay",
    "     takes less mail from the host.")


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell: `key` is what makes two alerts the same, `facts` are for machines."""

    kind: Kind
    key: str
    title: str
    text: str
    at: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tried:
    """One destination of a host: how many attempts went there, as counted until `at_s`."""

    address: str
    count: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a host besides its verdict."""

    name: str
    keys: tuple[str, ...]
    ports: tuple[int, ...]
    tried: tuple[Tried, ...] = ()
    macs: tuple[str, ...] = ()
    blocked: bool = True


@dataclass(frozen=True, slots=True)
class Where:
    """Who tells it: the router's name, and what a monotonic second was on the wall, with its zone."""

    router: str
    wall: Callable[[float], str]


def clean(text: object, most: int = LONGEST_VALUE) -> str:
    """One line without anything that is not printable: no header, no terminal and no log can be forged."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return plain if len(plain) <= most else f"{plain[:most - 1]}…"


def of_step(step: Transition, evidence: Evidence, where: Where) -> Alert:
    """A verdict has changed."""
    name = clean(evidence.name or step.host, 80)
    who = f"{name} ({step.host})" if evidence.name else str(step.host)
    if step.after.rank < step.before.rank:
        title = f"{who}: verdict back from {step.before} to {step.after}"
    else:
        title = f"{who} looks {step.after}: {step.attempts} attempts to send mail directly"
    keys = ", ".join(map(clean, evidence.keys))
    head = _rows([("Host", f"{name}: {keys}" if evidence.name else keys),
                  ("Verdict", f"{step.before} → {step.after} (score {step.score:.1f})"),
                  ("Since", where.wall(step.at_s)), ("Why", clean(step.why)),
                  ("Attempts", f"{step.attempts} counted, {'refused' if evidence.blocked else 'only counted'}"
                               f" (TCP port {', '.join(map(str, evidence.ports))})"),
                  ("MAC", ", ".join(map(clean, evidence.macs[:5])) or "not known"),
                  ("Router", clean(where.router))])
    newest = sorted(evidence.tried, key=lambda t: (-t.at_s, t.address))
    facts = {"host": step.host, "name": evidence.name, "keys": evidence.keys, "before": step.before,
             "after": step.after, "score": round(step.score, 2), "attempts": step.attempts, "why": step.why,
             "since": where.wall(step.at_s), "ports": evidence.ports, "macs": evidence.macs,
             "destinations": [{"address": t.address, "attempts": t.count, "last": where.wall(t.at_s)}
                              for t in newest[:SAMPLE]]}
    todo = TO_DO if step.after is not State.CLEAN else ()
    return Alert("verdict", f"verdict:{step.host}:{step.after}", clean(title, LONGEST_TITLE),
                 _text([*head, "", *_sample(newest, where), "", *todo]), where.wall(step.at_s), facts)


def _sample(newest: list[Tried], where: Where) -> list[str]:
    if not newest:
        return ["Destinations: none is recorded."]
    return [f"Destinations ({min(SAMPLE, len(newest))} of {len(newest)}, the newest first; counted until the "
            "time given)",
            *(f"  {where.wall(t.at_s)}  {clean(t.address, 45):<40}{_attempts(t.count):>15}"
              for t in newest[:SAMPLE])]


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def of_exposure(exposure: Exposure, where: Where) -> Alert:
    """Somebody else has changed the rules."""
    who = clean(", ".join(map(str, exposure.by)) or "unknown", 80)
    rows = _rows([("What", clean(exposure.wrong)), ("By", who), ("From", where.wall(exposure.start_s)),
                  ("To", where.wall(exposure.end_s)), ("Passed", clean("; ".join(exposure.loose))),
                  ("Seen", clean("; ".join(exposure.passed) or "no connection that is still known")),
                  ("Router", clean(where.router))])
    todo = ["What to do",
            "  Find out why that program changes the rules and stop it from doing so, or it will be",
            "  repaired, and be an exposure, again and again. Debian's nftables.service flushes",
            "  everything on stop and restart; fail2ban and firewalld change their own tables only.",
            "  What happened before and after: egressguard history"]
    facts: dict[str, object] = {
        "wrong": exposure.wrong, "by": [str(p) for p in exposure.by], "loose": exposure.loose,
        "passed": exposure.passed, "start": where.wall(exposure.start_s), "end": where.wall(exposure.end_s)}
    return Alert("exposure", f"exposure:{exposure.wrong}:{','.join(p.program for p in exposure.by)}",
                 clean(f"port 25 was not guarded: {exposure.wrong}, by {who}", LONGEST_TITLE),
                 _text([*rows, "", *todo]), where.wall(exposure.end_s), facts)


OVERFLOWS = {"overflow": "hosts", "fanout_overflow": "destinations", "mac_overflow": "MAC addresses"}


def of_overflow(before: Totals, after: Totals, now_s: float, where: Where) -> Alert | None:
    """A counting set was full since `before`."""
    grown = {key: getattr(after, key) - getattr(before, key) for key in OVERFLOWS}
    if not any(count > 0 for count in grown.values()):
        return None
    rows = [f"  {count} attempts found no room in the set of {OVERFLOWS[key]}"
            for key, count in grown.items() if count > 0]
    todo = ["They were refused all the same. Hosts of the inventory are counted whatever others do: name",
            "yours there ([[host]] in egressguard.toml). A full set is usually a flood with forged",
            "sources; egressguard status says how many were."]
    return Alert("overflow", "overflow", "a counting set was full", _text([*rows, "", *todo]),
                 where.wall(now_s), {key: count for key, count in grown.items() if count > 0})


def of_canary(run: Run, where: Where) -> Alert | None:
    """The canary has failed, or has got out."""
    told = run.having(Fate.LEAKED, Fate.UNCOUNTED, Fate.UNABLE)
    if not told:
        return None
    out = run.having(Fate.LEAKED)
    title = "the canary got out: port 25 is open" if out else "the canary proves nothing"
    rows = [f"  {clean(flight.text)}" for flight in told]
    return Alert("canary", f"canary:{'out' if out else 'fails'}", title,
                 _text([*rows, "", "What leads around the rules is looked for by: egressguard doctor"]),
                 where.wall(run.at_s), {"fates": [f.fate for f in told], "text": summary(run)})


def of_silence(what: str, why: str, now_s: float, where: Where) -> Alert:
    """Nothing is heard from a relay, or from the exchange itself."""
    name = clean(what, 80)
    text = [f"  {clean(why)}", "",
            "While it lasts, the relays do not learn of new verdicts and their limits fall back to the",
            "base; this router goes on blocking and counting. Look at both ends: egressguard status",
            "here, egressguard-milter status on the relay."]
    return Alert("exchange", f"exchange:{name}", clean(f"{name} is not heard", LONGEST_TITLE), _text(text),
                 where.wall(now_s), {"what": what, "why": why})


def of_test(now_s: float, where: Where) -> Alert:
    """Somebody wants to know whether alerts arrive."""
    return Alert("test", "test", f"a test from {clean(where.router, 80)}",
                 _text(["  This is a test; nothing has happened. Alerts arrive this way."]),
                 where.wall(now_s))


def of_limit(most: int, now_s: float, where: Where) -> Alert:
    """More happens than is told."""
    return Alert("limit", "limit", "more happens than alerts are sent for",
                 _text([f"  More than {most} alerts within an hour: further ones are told later. All of it",
                        "  stands in egressguard history; who it is about: egressguard hosts"]),
                 where.wall(now_s))


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name + ':':<11}{value}" for name, value in rows]


def _text(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


@dataclass(frozen=True, slots=True)
class Told:
    """When an alert was told last, and how many of the same were held back since."""

    at_s: float
    suppressed: int = 0


Decision = Literal["tell", "same", "too many"]


def decide(last: Told | None, lately: int, now_s: float, repeat_s: float, most_per_hour: int) -> Decision:
    """Whether to tell: not the same within `repeat_s`, and not more than `most_per_hour` (`lately` were)."""
    if last is not None and 0 <= now_s - last.at_s < repeat_s:
        return "same"
    return "too many" if lately >= most_per_hour else "tell"
