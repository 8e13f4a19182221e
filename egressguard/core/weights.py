"""What each observation weighs: logarithms of how much likelier it is under one cause than under another.

An attempt goes to a destination that is new to the host, or is a repetition of one of four kinds. `KINDS` has
each kind's share of a cause's repetitions; the share of new destinations is a setting. They are chosen from
what the programs do by default, not fitted: docs/judging.md has the sources and what comes of other values.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause

BENIGN = (Cause.APPLICATION, Cause.PROBER, Cause.MTA)
SOON, REGULAR, LATE, RUN = range(4)
# How repetitions come: within seconds, at the interval of the one before, later, or many at once after a
# pause.
KINDS: dict[Cause, tuple[float, float, float, float]] = {
    Cause.SPAMBOT: (0.70, 0.05, 0.20, 0.05),
    Cause.APPLICATION: (0.45, 0.12, 0.40, 0.03),
    Cause.PROBER: (0.15, 0.75, 0.08, 0.02),
    Cause.MTA: (0.20, 0.10, 0.25, 0.45),
}
# The share of benign hosts that try at least 1, 2, … destinations within hours: a smarthost has a few
# addresses, and the first of them is new to everybody. Beyond these, the settings' shares of new destinations
# count.
AT_LEAST = (1.0, 0.7, 0.3, 0.1, 0.01, 0.001)
MOST_FROM_RELAYS = 0.5  # how far above the bound of `suspect` reports alone can lift a score


class Weights(NamedTuple):
    """Log-likelihood ratios and bounds, all in nats.

    `first[n]` is what the first n destinations say together, `new` what each one more does; `again[kind]` has
    what a repetition of that kind says for each of `BENIGN`, against a spambot.
    """

    first: tuple[float, ...]
    new: float
    again: tuple[tuple[float, float, float], ...]
    suspect: float
    compromised: float
    hold: float
    ceiling: float
    most_from_relays: float
    half_life_s: float


def weight_of_new(w: Weights, recent: float, new: int) -> float:
    """What `new` destinations say after `recent` ones; the same one after the other, or all at once."""
    if recent >= len(AT_LEAST):
        return new * w.new
    return _together(w, recent + new) - _together(w, recent)


def _together(w: Weights, recent: float) -> float:
    """What `recent` destinations say together; what has decayed leaves a part of one."""
    few = len(AT_LEAST)
    if recent >= few:
        return w.first[few] + (recent - few) * w.new
    whole = int(recent)
    return w.first[whole] + (recent - whole) * (w.first[whole + 1] - w.first[whole])


@lru_cache(maxsize=8)
def weights(detection: Detection) -> Weights:
    """What `detection`'s probabilities and error rates mean for the sums."""
    bot, benign = detection.new_destination_if_spambot, detection.new_destination_if_benign
    suspect, compromised, hold = (math.log((1 - detection.missed) / alpha) for alpha in (
        detection.suspect_false_alarm, detection.false_alarm, detection.hold_false_alarm))
    again = tuple(tuple(math.log((1 - benign) * KINDS[cause][kind] / ((1 - bot) * KINDS[Cause.SPAMBOT][kind]))
                        for cause in BENIGN) for kind in (SOON, REGULAR, LATE, RUN))
    first = tuple(-math.log(share) for share in (1.0, *AT_LEAST))
    return Weights(first, math.log(bot / benign), tuple((a, b, c) for a, b, c in again), suspect, compromised,
                   hold, max(4 * compromised, 1.5 * hold), suspect + MOST_FROM_RELAYS, detection.half_life_s)
