"""What egressguard thinks of a host, and what a relay makes of it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from egressguard.core.hosts import Host
from egressguard.core.memory import NOTHING, Memory


class State(StrEnum):
    """The three verdicts, from good to bad."""

    CLEAN = "clean"
    SUSPECT = "suspect"
    COMPROMISED = "compromised"

    @property
    def rank(self) -> int:
        """0 for clean, growing with badness, so that two verdicts can be compared."""
        return _RANKS[self]


_RANKS = {state: rank for rank, state in enumerate(State)}  # asked for every host in every round


class Tier(StrEnum):
    """What a relay does with a verdict: base limits, limits × factor, or tempfail everything."""

    NORMAL = "normal"
    TIGHTENED = "tightened"
    HELD = "held"


class Cause(StrEnum):
    """What a host's attempts look like."""

    UNKNOWN = "unknown"
    SPAMBOT = "spambot"
    MTA = "misrouted MTA"
    APPLICATION = "misconfigured application"
    PROBER = "prober"


UNDECIDED = "spambot or misrouted MTA"


class Verdict(NamedTuple):
    """A host's standing at `at_s` (monotonic seconds), when evidence was last weighed.

    `score` is the log-odds of a compromise against the benign cause that explains the evidence best
    (detection.py), as at `at_s`; `firm` is the part of it that no neighbour can have forged. `since_s` is
    when `state` was reached, `until_s` when it falls if nothing more happens; `attempts` is what the router
    has counted for the host, ever; `hold` proposes what only a person may order. A tuple, because ten
    thousand of them are made in a round.
    """

    host: Host
    state: State
    score: float
    since_s: float
    at_s: float
    attempts: int = 0
    why: str = ""
    cause: Cause = Cause.UNKNOWN
    firm: float = 0.0
    until_s: float = math.inf
    hold: bool = False
    memory: Memory = NOTHING

    @property
    def undecided(self) -> bool:
        """Whether it may still be a spambot or a mail server that lost its way (queue.py)."""
        queue = self.memory.past.queue
        return queue is not None and queue.doubt_until_s > self.at_s and self.state is not State.COMPROMISED

    @property
    def told(self) -> State:
        """The state that relays are told: the worst that is still possible, since they only limit."""
        return State.COMPROMISED if self.undecided else self.state

    @property
    def cause_told(self) -> str:
        """The cause that relays are told beside it."""
        return UNDECIDED if self.undecided else str(self.cause)


@dataclass(frozen=True, slots=True)
class Transition:
    """A host's verdict changed from one state to the next; history is made of these."""

    host: Host
    before: State
    after: State
    at_s: float
    score: float
    attempts: int
    why: str


def transitions(before: Mapping[Host, Verdict], after: Iterable[Verdict]) -> list[Transition]:
    """The steps from `before` to `after`.

    A round can carry a host's score over both bounds; the sequential test passed the states in
    between on its way, one observation after another, so each of them is a step of its own.
    """
    steps: list[Transition] = []
    order = tuple(State)
    for verdict in after:
        old = before[verdict.host].state if verdict.host in before else State.CLEAN
        if verdict.state is old:
            continue
        direction = 1 if verdict.state.rank > old.rank else -1
        for rank in range(old.rank, verdict.state.rank, direction):
            steps.append(Transition(verdict.host, order[rank], order[rank + direction],
                                    verdict.at_s, verdict.score, verdict.attempts, verdict.why))
    return steps


def states_by_key(verdicts: Iterable[Verdict], machine_of: Mapping[Host, Host]) -> dict[Host, State]:
    """The state that relays are told of every host, clean ones left out, under every key of its machine."""
    bad = {v.host: v.told for v in verdicts if v.told is not State.CLEAN}
    aliases = {key: bad[host] for key, host in machine_of.items() if host in bad}
    return {**bad, **aliases}
