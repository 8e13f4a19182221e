"""A sequential probability ratio test per host (Wald 1947; for scanners: Jung et al., "Fast portscan
detection using sequential hypothesis testing", 2004; for spam: Duan et al., SPOT, 2009).

Each attempt is one observation: its destination is new to the host, or a repetition. A spambot hardly
repeats, a misrouted MTA or a misconfigured application mostly does, so an attempt adds the logarithm of
how much likelier it is under the first than under the second. The sum never falls below zero: a bot that
moves into a long-clean host must not have to work off the host's good past first (Page 1954). It halves
every half-life, and Wald's bounds for the configured error rates decide.

Repetitions cancel at most half of what new destinations have added. A bot could otherwise wash its verdict
away by connecting to one address again and again; so a verdict falls with time and with nothing else. What
nobody could record, because a set was full, counts as new: whoever fills a set must not profit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from egressguard.core.attempts import Attempts
from egressguard.core.hosts import Host
from egressguard.core.settings import Detection
from egressguard.core.verdict import State, Verdict

CANCELLED_AT_MOST = 0.5  # so that the hysteresis of state_of() holds a verdict against any repetition


@dataclass(frozen=True, slots=True)
class Weights:
    """Log-likelihood ratios of the two observations, and the bounds, all in natural logarithms."""

    new: float
    repeated: float
    suspect: float
    compromised: float


def weights(detection: Detection) -> Weights:
    """What `detection`'s probabilities and error rates mean for the sum."""
    bot, benign = detection.new_destination_if_spambot, detection.new_destination_if_benign
    return Weights(
        new=math.log(bot / benign),
        repeated=math.log((1 - bot) / (1 - benign)),
        suspect=math.log((1 - detection.missed) / detection.suspect_false_alarm),
        compromised=math.log((1 - detection.missed) / detection.false_alarm),
    )


def judge(previous: Mapping[Host, Verdict], evidence: Mapping[Host, Attempts],
          detection: Detection, now_s: float) -> dict[Host, Verdict]:
    """The verdicts at `now_s` on every host with a past or with evidence.

    Evidence about a host starts from its decayed score. A clean host without evidence keeps the verdict
    that it has: its decay is worked out when it matters, not for every host in every round.
    """
    w = weights(detection)
    verdicts = dict(previous)
    waning = (host for host, old in previous.items() if old.state is not State.CLEAN)
    for host in {*waning, *evidence}:
        old = previous.get(host) or Verdict(host, State.CLEAN, 0.0, now_s, now_s)
        verdicts[host] = _judge_host(_decayed(old, detection, now_s), evidence.get(host), w, now_s)
    return verdicts


def _decayed(verdict: Verdict, detection: Detection, now_s: float) -> Verdict:
    elapsed_s = max(0.0, now_s - verdict.at_s)
    rest = float(0.5 ** (elapsed_s / detection.half_life_s))
    return replace(verdict, at_s=now_s, score=verdict.score * rest, against=verdict.against * rest)


def _judge_host(old: Verdict, attempts: Attempts | None, w: Weights, now_s: float) -> Verdict:
    if attempts is None:
        state = state_of(old.score, old.state, w)
        return old if state is old.state else replace(old, state=state, since_s=now_s,
                                                      why="no further attempts, the score decayed")
    new = min(len(attempts.new_destinations) + attempts.unknown, attempts.count)
    gained = min(old.score + old.against + new * w.new, 2 * w.compromised)
    against = min(old.against - (attempts.count - new) * w.repeated, gained * CANCELLED_AT_MOST)
    score = gained - against
    state = state_of(score, old.state, w)
    return replace(
        old, score=score, against=against, state=state, attempts=old.attempts + attempts.count,
        since_s=old.since_s if state is old.state else now_s, why=_why(attempts, new))


def _why(attempts: Attempts, new: int) -> str:
    unknown = f", {attempts.unknown} of these not recorded" if attempts.unknown else ""
    return f"{attempts.count} attempts, {new} of them to new destinations{unknown}"


def state_of(score: float, before: State, w: Weights) -> State:
    """The state for a score: a bound must be reached to rise; to fall, it must be below half of it.

    Without that hysteresis a host near a bound would flap with every decay.
    """
    for state, bound in ((State.COMPROMISED, w.compromised), (State.SUSPECT, w.suspect)):
        if score >= bound or (before.rank >= state.rank and score >= bound / 2):
            return state
    return State.CLEAN
