"""What egressguard thinks of a host, and what a relay makes of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from egressguard.core.hosts import Host


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """A host's standing at `at_s` (monotonic seconds).

    `score` is what speaks for a compromise less what speaks `against` it, in log-odds (detection.py);
    `since_s` is when `state` was reached, `attempts` what the router has counted for the host, ever.
    """

    host: Host
    state: State
    score: float
    since_s: float
    at_s: float
    attempts: int = 0
    why: str = ""
    against: float = 0.0


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
    """The state of every host that is not clean, under every key that its machine has."""
    bad = {v.host: v.state for v in verdicts if v.state is not State.CLEAN}
    aliases = {key: bad[host] for key, host in machine_of.items() if host in bad}
    return {**bad, **aliases}
