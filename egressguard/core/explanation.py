"""A verdict in sentences: what it is, until when, and the contributions that made it.

What a person reads is made here from numbers; addresses come from packets, so they are text of a known form.
"""

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from egressguard.core.ages import ago
from egressguard.core.causes import likeliest
from egressguard.core.forgery import Forgery
from egressguard.core.memory import Contribution, destinations_of
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause, State, Verdict
from egressguard.core.weights import BENIGN, RUN, weights

KINDS = ("at once again", "at a regular interval", "again later", "many again after a pause")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What made a verdict, as it was kept at `kept_s`: sums in nats, visits by kind, and contributions."""

    cause: str
    gained: float
    against: tuple[float, float, float]
    relays: float
    visits: tuple[int, ...]
    destinations: int
    owed: int | None
    paid: int
    contributions: tuple[Contribution, ...]


def to_json(verdict: Verdict) -> str:
    """The explanation of `verdict`, for the database."""
    memory = verdict.memory
    queue = memory.past.queue
    return json.dumps([str(_cause(verdict)), memory.gained, [memory.application, memory.prober, memory.mta],
                       memory.relays, memory.visits, destinations_of(memory),
                       queue and len(queue.owed) + len(queue.again), queue.paid if queue else 0,
                       memory.past.contributions])


def from_json(text: str) -> Explanation:
    """The explanation in `text`, which `to_json` made."""
    cause, gained, against, relays, visits, destinations, owed, paid, contributions = json.loads(text)
    return Explanation(cause, gained, tuple(against), relays, tuple(visits), destinations, owed, paid, tuple(
        Contribution(first_s, at_s, kind, times, weight, tuple(samples))
        for first_s, at_s, kind, times, weight, samples in contributions))


def _cause(verdict: Verdict) -> str:
    return verdict.cause if verdict.state is State.COMPROMISED else likeliest(verdict.memory, verdict.state)


def hold_proposed(verdict: Verdict | None, forged: Collection[object]) -> bool:
    """Whether it is proposed that a person holds the host: never while attempts in its name are `forged`.

    Its handshakes may be the forger's, too, who needs only to answer for its address.
    """
    return verdict is not None and verdict.hold and not forged


def sentences(name: str, verdict: Verdict | None, found: Explanation | None, detection: Detection,
              now_s: float, forgeries: Collection[Forgery] | None) -> list[str]:
    """The verdict in words; ages are relative to `now_s`.

    `forgeries` are what was forged of its attempts, None when that could not be asked.
    """
    framed = [f"Some {forgery.of('attempts')}; a neighbour may be framing it: do not hold it for these."
              for forgery in forgeries or ()]
    if verdict is None:
        return [f"{name} is clean: it has never tried to send mail directly.", *framed]
    return [*_judged(name, verdict, found, detection, now_s), *_proposal(verdict, forgeries),
            *(_reasons(found) if found is not None else ()), *framed]


def _judged(name: str, verdict: Verdict, found: Explanation | None, detection: Detection, now_s: float
            ) -> list[str]:
    w = weights(detection)
    bad = verdict.state is not State.CLEAN
    since = f", for {ago(now_s - verdict.since_s)}" if bad else ""
    lines = [f"{name} is {verdict.state}{since}; {verdict.attempts} direct attempts were counted, ever."]
    if bad:
        left_s = max(0.0, verdict.until_s - now_s)
        lines.append(f"It {verdict.why}.")
        lines.append(f"If nothing more happens, the verdict falls in {ago(left_s)}.")
        if verdict.state is State.COMPROMISED:
            lines.append(_or_a_mail_server(found))
    elif found is not None and found.cause != Cause.UNKNOWN:
        lines.append(f"What it does looks like a {found.cause}.")
    if _undecided(verdict, now_s):
        lines.append("It is a spambot, or a mail server that has lost its way to the relay: its retries will "
                     "show which. Until then, relays limit it as a compromised host.")
    lines.append(f"The score was {verdict.score:.1f} {ago(now_s - verdict.at_s)} ago; {w.suspect:.1f} is the "
                 f"bound of suspect, {w.compromised:.1f} of compromised, and it halves every "
                 f"{ago(w.half_life_s)}.")
    return lines


def _proposal(verdict: Verdict, forgeries: Collection[Forgery] | None) -> list[str]:
    if not hold_proposed(verdict, forgeries or ()):
        return []
    doubt = ", though whether its attempts are forged could not be asked here" if forgeries is None else ""
    return [f"{verdict.firm:.1f} of it no neighbour can have forged; that is enough to propose that the host "
            f"is held{doubt}; `egressguard quarantine` does it, when you decide so."]


def _or_a_mail_server(found: Explanation | None) -> str:
    """What else a spambot could be: the first attempts of a server that nobody has named are the same."""
    runs = found is not None and found.visits[RUN]
    shown = "it has tried known destinations again as those do" if runs else \
        "it has not tried its destinations again so far, as those do after 5 to 60 minutes"
    return (f"A mail server that is not in the configuration begins in the same way; {shown}. If it is one, "
            "name it there as a [[sender]], or let it mail by the relay, and then release it.")


def _undecided(verdict: Verdict, now_s: float) -> bool:
    queue = verdict.memory.past.queue
    return verdict.undecided and queue is not None and queue.doubt_until_s > now_s


def _reasons(found: Explanation) -> list[str]:
    """What speaks for and against, as far as it was kept."""
    lines = [f"New destinations speak for a spambot with {found.gained:.1f}; {found.destinations} known."]
    for cause, against in zip(BENIGN, found.against, strict=True):
        if against > 0:
            lines.append(f"Repetitions speak for a {cause} with {against:.1f}, up to four tenths of that.")
    if found.relays > 0:
        lines.append(f"Relays' reports add {found.relays:.1f}.")
    if any(found.visits):
        told = ", ".join(f"{n} × {kind}" for n, kind in zip(found.visits, KINDS, strict=True) if n)
        lines.append(f"It came back to known destinations: {told}.")
    if found.owed is not None:
        lines.append(f"It may have a mail server's queue: {found.paid} destinations were tried again as a "
                     f"mail server does, {found.owed} are still to be.")
    return lines


def contributions(found: Iterable[Contribution], now_s: float) -> list[str]:
    """One line for each contribution, oldest first."""
    return [f"{ago(now_s - c.at_s):>8} ago  {c.weight:+5.1f}  {c.times} × {c.kind}"
            + (f": {', '.join(c.samples)}" if c.samples else "") for c in found]


def as_dict(verdict: Verdict | None, found: Explanation | None, now_s: float,
            forgeries: Collection[Forgery] | None) -> dict[str, Any]:
    """The verdict and its reasons for machines; ages in seconds. `forgeries` as of `sentences`."""
    forged_by = None if forgeries is None else sorted({mac for f in forgeries for mac in f.macs})
    if verdict is None:
        return {"forged_by": forged_by, "verdict": "clean", "attempts": 0}
    return {
        "forged_by": forged_by,
        "verdict": verdict.state, "cause": found.cause if found else verdict.cause,
        "score": round(verdict.score, 3), "firm": round(verdict.firm, 3),
        "hold_proposed": hold_proposed(verdict, forgeries or ()),
        "why": verdict.why, "attempts": verdict.attempts, "undecided": _undecided(verdict, now_s),
        "in_this_state_s": round(max(0.0, now_s - verdict.since_s), 1),
        "falls_in_s": None if verdict.until_s == math.inf else round(max(0.0, verdict.until_s - now_s), 1),
        "destinations": found.destinations if found else None,
        "contributions": [{"age_s": round(now_s - c.at_s, 1), "kind": c.kind, "count": c.times,
                           "weight": round(c.weight, 3), "samples": list(c.samples)}
                          for c in (found.contributions if found else ())],
    }
