"""A sequential probability ratio test per host, of a compromise against each benign cause (Wald 1947; for
scanners: Jung et al., "Fast portscan detection using sequential hypothesis testing", 2004; for spam: Duan et
al., SPOT, 2009).

Each attempt is an observation: its destination is new to the host, or it is a repetition of some kind. New
destinations add how much likelier they are of a spambot than of anything benign; repetitions say, for each
benign cause, how much likelier they are of that. The score is what remains against the cause that explains
most, plus what relays report. The sums halve every half-life, and Wald's bounds decide.

The laws that keep an attacker from profiting:
* Repetitions cancel at most four tenths of what new destinations have added, and at most the bound: a
  verdict falls with time and with nothing else, and nobody saves up repetitions. So new destinations weigh
  the same in any order and in any rounds, and another one never lowers a score.
* A queue's retries pay for the destinations that they retry and for no others (queue.py).
* What nobody could record, because a set was full, counts as new.
* Reports alone make nobody `compromised`. A proposal to hold needs evidence that a neighbour cannot forge:
  handshakes, and reports; attempts alone never reach it.
"""

import math
from collections.abc import Iterable, Mapping

from egressguard.core import queue
from egressguard.core.attempts import Attempts
from egressguard.core.causes import INTERLEAVED, VISIT_S, kind_of, likeliest
from egressguard.core.hosts import Host
from egressguard.core.memory import (
    BITS,
    GENERATION_S,
    NOTHING,
    SAMPLES,
    SATURATED,
    Memory,
    Past,
    bit_of,
    destinations_of,
    salt_from,
    visited,
    with_contribution,
)
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause, State, Verdict
from egressguard.core.volumes import Volume, suspicion_of
from egressguard.core.weights import SOON, Weights, weight_of_new, weights

CLEAN = State.CLEAN
CANCELLED_AT_MOST = 0.4  # so that the hysteresis of state_of() holds a verdict against any repetition
REMEMBER_MAIL_S = 14 * 86400.0  # how long a relay's client is remembered as one


def judge(previous: Mapping[Host, Verdict], evidence: Mapping[Host, Attempts], detection: Detection,
          now_s: float, *, settling: bool = False,
          waning: Iterable[Host] | None = None) -> dict[Host, Verdict]:
    """The verdicts that change at `now_s`: on hosts with evidence, and those whose time is over.

    A verdict without evidence stands until its `until_s`; only `waning` hosts are asked (all by default).
    `settling` says that the site was shut a short time ago, so servers still have their queues.
    """
    w = weights(detection)
    verdicts: dict[Host, Verdict] = {}
    for host in previous if waning is None else waning:
        if previous[host].until_s <= now_s:
            verdicts[host] = _settled(previous[host], _decayed(previous[host], w, now_s), w, now_s)
    for host, attempts in evidence.items():
        old = previous.get(host) or Verdict(host, State.CLEAN, 0.0, now_s, now_s)
        verdicts[host] = _judge_attempts(old, attempts, w, now_s, settling)
    return verdicts


def judge_reports(previous: Mapping[Host, Verdict], volumes: Mapping[Host, Volume], detection: Detection,
                  now_s: float) -> dict[Host, Verdict]:
    """The verdicts that relays' `volumes` change: how hosts have used the permitted door."""
    w = weights(detection)
    verdicts: dict[Host, Verdict] = {}
    for host, volume in volumes.items():
        old = previous.get(host) or Verdict(host, State.CLEAN, 0.0, now_s, now_s)
        memory = _decayed(old, w, now_s)
        past = memory.past
        weight, words = suspicion_of(volume)
        relays = min(max(0.0, memory.relays + weight), w.most_from_relays)
        if relays > memory.relays:
            past = past._replace(contributions=with_contribution(
                past.contributions, now_s, words, volume.refused or volume.senders or volume.deferred or 1,
                relays - memory.relays))
        messages = volume.accepted + volume.deferred
        past = past._replace(mailed=max(volume.domains, _mailed(past, now_s)), told_s=now_s,
                             relayed_s=now_s if messages else past.relayed_s,
                             queue=past.queue and queue.told(past.queue, messages, now_s))
        verdicts[host] = _settled(old, memory._replace(relays=relays, past=past), w, now_s)
    return verdicts


def release(verdict: Verdict, now_s: float) -> Verdict:
    """The verdict after a person has forgiven the host: clean, but what it has tried stays known, so that the
    same destinations do not convict it again, and new ones do.
    """
    old = verdict.memory
    kept = NOTHING._replace(last_s=old.last_s, past=old.past._replace(queue=None, contributions=()))
    return Verdict(verdict.host, State.CLEAN, 0.0, now_s, now_s, verdict.attempts, "released", memory=kept)


def _mailed(past: Past, now_s: float) -> int:
    """To how many domains the host has mailed through relays in the last weeks."""
    return past.mailed if now_s - past.told_s < REMEMBER_MAIL_S else 0


def _decayed(verdict: Verdict, w: Weights, now_s: float) -> Memory:
    memory = verdict.memory
    elapsed_s = now_s - verdict.at_s
    if elapsed_s <= 0.0:
        return memory
    rest = float(0.5 ** (elapsed_s / w.half_life_s))
    gained, application, prober, mta, relays, verified, recent, visits, last_s, gaps, past = memory
    if past.queue is not None:
        past = past._replace(queue=queue.decayed(past.queue, rest))
    return Memory(gained * rest, application * rest, prober * rest, mta * rest, relays * rest,
                  verified * rest, recent * rest, visits, last_s, gaps, past)


def _judge_attempts(old: Verdict, attempts: Attempts, w: Weights, now_s: float,  # noqa: C901
                    settling: bool) -> Verdict:
    """The verdict after `attempts`: the hot path of a round, so each sum is a local variable."""
    gained, application, prober, mta, relays, verified, recent, visits, last_s, gaps, past = old.memory
    elapsed_s = now_s - old.at_s
    if elapsed_s > 0.0:
        rest = 0.5 ** (elapsed_s / w.half_life_s)
        gained, application, prober, mta = gained * rest, application * rest, prober * rest, mta * rest
        relays, verified, recent = relays * rest, verified * rest, recent * rest
    else:
        rest = 1.0
    count, retried, gap_s = attempts.count, attempts.retried, 0.0 if attempts.going_on else now_s - last_s
    fresh: list[str] = []
    gained_before = gained
    known = (past.bits | past.old_bits).bit_count()
    if attempts.new_destinations:
        fresh, retried, past = _remembered(past, attempts, now_s)
    new = len(fresh) + min(attempts.unknown, max(0, count - len(fresh)))
    if new:
        weight = weight_of_new(w, recent, new)
        recent += new
        gained = min(gained + weight, w.ceiling)
        past = _noted(past, fresh, new, weight, now_s)
    if attempts.proven:
        verified, past = _proven(past, attempts.proven, verified, w, now_s)
    if new < count:
        # Known by the bitmap alone may be an accident: it says how the host comes back, and weighs nothing.
        again = max(0, count - new - len(attempts.new_destinations) + len(fresh))
        kind = SOON
        if gap_s >= VISIT_S:
            kind = kind_of(gap_s, gaps, known, len(retried))
        for_application, for_prober, for_mta = w.again[kind]
        bound = w.compromised
        application = min(application + again * for_application, bound)
        prober = min(prober + again * for_prober, bound)
        mta = min(mta + again * for_mta, bound)
        visits = visited(visits, kind, attempts.going_on or 1)
    if VISIT_S <= gap_s < math.inf:
        gaps = (*gaps[1 - INTERLEAVED:], gap_s)
    if past.queue is not None or (new and (settling or past.mailed >= queue.WIDELY)):
        past = _queued(past, gap_s, fresh, retried, attempts.unknown, (gained_before, gained), rest, settling,
                       w, now_s)
    memory = Memory(gained, application, prober, mta, relays, verified, recent, visits, now_s, gaps, past)
    # What had waited may be older than a report that was weighed meanwhile.
    return _settled(old, memory, w, now_s if elapsed_s > 0.0 else old.at_s, count)


def _remembered(past: Past, attempts: Attempts, now_s: float) -> tuple[list[str], tuple[str, ...], Past]:
    """Which destinations are new, which are tried again, and the past that knows them all.

    The counters forget a destination within the hour; the bitmap remembers it for a day or two.
    """
    bits, old_bits, turned_s = past.bits, past.old_bits, past.turned_s
    if now_s - turned_s >= GENERATION_S:
        bits, old_bits, turned_s = 0, bits if now_s - turned_s < 2 * GENERATION_S else 0, now_s
    fresh: list[str] = []
    again = list(attempts.retried)
    full = (bits | old_bits).bit_count() > SATURATED
    if full and past.queue is None:
        # A few destinations after very many are remembered again. A queue has very many, again and again, and
        # would be forgotten with each of them: there, what looks known is taken for new.
        bits, old_bits, turned_s, full = 0, 0, now_s, False
    salt = past.salt or salt_from(attempts.new_destinations[0])
    for destination in attempts.new_destinations:
        bit = bit_of(salt, destination, BITS)
        (fresh if full or not (bits | old_bits) & bit else again).append(destination)
        bits |= bit
    return fresh, tuple(again), Past(bits, old_bits, turned_s, *past[3:10], salt)


def _noted(past: Past, fresh: list[str], new: int, weight: float, now_s: float) -> Past:
    """The past with what a person may want to read."""
    contributions = with_contribution(past.contributions, now_s, "new destinations", new, weight,
                                      tuple(fresh[:SAMPLES]))
    return Past(*past[:7], contributions, *past[8:])


def _proven(past: Past, destinations: tuple[str, ...], verified: float, w: Weights,
            now_s: float) -> tuple[float, Past]:
    """What handshakes add to the part of a score that cannot be forged: each destination counts once.

    Otherwise a neighbour could forge attempts to many destinations in the name of a host whose own program
    completes handshakes with one.
    """
    bits, salt = past.proven, past.salt or salt_from(destinations[0])
    fresh: list[str] = []
    for destination in destinations:
        bit = bit_of(salt, destination, BITS)
        if not bits & bit:
            bits |= bit
            fresh.append(destination)
    contributions = with_contribution(past.contributions, now_s, "handshakes completed", len(destinations),
                                      0.0, tuple(fresh[:SAMPLES]))
    past = past._replace(proven=bits, contributions=contributions, salt=salt)
    return min(verified + len(fresh) * w.new, w.ceiling), past


def _queued(past: Past, quiet_s: float, fresh: list[str], retried: tuple[str, ...], unknown: int,
            gains: tuple[float, float], rest: float, settling: bool, w: Weights, now_s: float) -> Past:
    """The past after what may be a mail server's queue has been tried; `gains` are what new destinations
    have added, before these and with them.
    """
    q, relayed_s, (before, gained) = past.queue, past.relayed_s, gains
    if q is not None:
        q = queue.repaired(queue.decayed(q, rest), relayed_s, now_s)
    relays_now = now_s - relayed_s < queue.STILL_RELAYS_S
    if fresh and not (relays_now and quiet_s < queue.DAY_S):
        q = queue.expected(q, _mailed(past, now_s), settling, quiet_s, before, now_s)
    if q is None:
        return past
    if fresh and q.budget and queue.relays_on(q, relayed_s, now_s):
        q = queue.refuted(q, gained)  # it still mails through the relay, so it has not lost its way there
    q = queue.after(q, fresh, retried, unknown, gained, w.new, now_s)
    # Whom the site has just shut out may be led to the relay now, and is meant to arrive there.
    if (fresh or unknown) and gained >= w.compromised and not settling:
        q = queue.doubted(q, now_s)
    return past._replace(queue=q)


def score_of(memory: Memory) -> float:
    """Log-odds of a compromise against the benign cause that explains most, with what relays report."""
    gained, application, prober, mta, relays, _, _, _, _, _, past = memory
    half = gained * CANCELLED_AT_MOST
    strongest = application if application > prober else prober
    if mta > strongest:
        strongest = mta
    score = gained - (strongest if strongest < half else half)
    if past.queue is not None and past.queue.score < score:
        score = past.queue.score
    return score + relays


def _settled(old: Verdict, memory: Memory, w: Weights, now_s: float, attempts: int = 0) -> Verdict:
    """The verdict that `memory` amounts to, after `old`."""
    score = score_of(memory)
    host, before, _, since_s, _, total, why, cause, _, _, _, _ = old
    state = before
    if score >= w.suspect or before is not CLEAN:
        state = state_of(score, before, w)
        if state is not before:
            cause, since_s = likeliest(memory, state), now_s
            why = _why(memory, total + attempts, state.rank > before.rank, cause)
    queue_ = memory.past.queue
    doubt_until_s = queue_.doubt_until_s if queue_ is not None else -math.inf
    until_s = doubt_until_s if doubt_until_s > now_s else math.inf
    if state is CLEAN:
        return Verdict(host, state, score, since_s, now_s, total + attempts, why, cause, 0.0, until_s, False,
                       memory)
    firm = min(memory.verified + memory.relays, score)
    return Verdict(host, state, score, since_s, now_s, total + attempts, why, cause, firm,
                   min(until_s, _falls_at(score, state, w, now_s)),
                   firm >= w.hold and state is State.COMPROMISED, memory)


def _falls_at(score: float, state: State, w: Weights, now_s: float) -> float:
    """When a score that only decays will have left `state`."""
    bound = w.compromised if state is State.COMPROMISED else w.suspect
    return now_s + w.half_life_s * max(0.0, math.log2(score / bound) + 1.0) if score > 0.0 else now_s


def _why(memory: Memory, attempts: int, risen: bool, cause: Cause) -> str:
    if not risen:
        return "nothing new for a while, the score decayed"
    # Hosts are read before destinations, so some may be known whose attempts are counted in the next round.
    known = max(1, min(attempts, destinations_of(memory)))
    return f"looks like a {cause}: {attempts} attempts, {known} destinations known"


def state_of(score: float, before: State, w: Weights) -> State:
    """The state for a score: a bound must be reached to rise; to fall, it must be below half of it.

    Without that hysteresis a host near a bound would flap with every decay.
    """
    if score < w.suspect / 2:
        return State.CLEAN
    if score >= w.compromised or (before is State.COMPROMISED and score >= w.compromised / 2):
        return State.COMPROMISED
    if score >= w.suspect or before is not State.CLEAN:
        return State.SUSPECT
    return State.CLEAN
