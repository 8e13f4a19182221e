"""Which cause a host looks like: the one under which its visits are likeliest.

A visit is an attempt, or several, after some seconds of silence. Repetitions at the interval of the one
before are a clock's, hence a prober's; many destinations again after minutes are a queue run, hence an MTA's;
the rest is an application that somebody uses. How many destinations there are says as much as how they come.
"""

import math

from egressguard.core.memory import Memory, destinations_of
from egressguard.core.verdict import Cause, State
from egressguard.core.weights import KINDS, LATE, REGULAR, RUN

VISIT_S = 5.0
PAUSE_S = 240.0  # no MTA runs its queue more often: Postfix' queue_run_delay is 300 s
RUN_OF = 3  # so many known destinations at once are a queue
INTERLEAVED = 4  # so many gaps are kept: a prober of four destinations has a pattern of four
TOLERANCE, TOLERANCE_S = 0.06, 1.5
ENOUGH = 2  # visits before there is anything to compare
FEW = 4
# How likely a host with this cause tries more than FEW destinations within a day or two.
MANY = {Cause.SPAMBOT: 0.97, Cause.MTA: 0.8, Cause.APPLICATION: 0.04, Cause.PROBER: 0.08}


def kind_of(gap_s: float, gaps: tuple[float, ...], destinations: int, retried: int) -> int:
    """How a repetition came, `gap_s` after the attempt before, with the `gaps` of earlier visits.

    Within VISIT_S it is SOON; that is not asked here.
    """
    if retried >= RUN_OF and gap_s >= PAUSE_S and destinations > FEW:
        return RUN
    return REGULAR if gaps and _regular(gap_s, gaps, destinations) else LATE


def _regular(gap_s: float, gaps: tuple[float, ...], destinations: int) -> bool:
    tolerance_s = max(TOLERANCE_S, TOLERANCE * gap_s)
    if abs(gap_s - gaps[-1]) <= tolerance_s:
        return True
    return 1 < destinations <= len(gaps) and abs(gap_s - gaps[-destinations]) <= tolerance_s


def likeliest(memory: Memory, state: State) -> Cause:
    """The cause that the visits remembered look like; a spambot when no benign one explains them."""
    if state is State.COMPROMISED:
        return Cause.SPAMBOT
    queue, counts = memory.past.queue, memory.visits
    if queue is not None and queue.proven:
        return Cause.MTA
    if sum(counts) < ENOUGH:
        return Cause.UNKNOWN if state is State.CLEAN else Cause.SPAMBOT
    many = destinations_of(memory) > FEW
    fits = {cause: math.log(MANY[cause] if many else 1 - MANY[cause])
            + sum(n * math.log(p) for n, p in zip(counts, KINDS[cause], strict=True))
            for cause in (Cause.APPLICATION, Cause.PROBER, Cause.MTA)}
    return max(fits, key=fits.__getitem__)
