"""Attempts from a list of events instead of from counters: as the router would have counted them, and its
listener would have seen handshakes.

The memory is bounded: a destination is forgotten when the router's counters would have forgotten it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from egressguard.core.attempts import REMEMBER_DESTINATION_S, Attempts
from egressguard.core.detection import judge
from egressguard.core.hosts import Host
from egressguard.core.settings import Detection
from egressguard.core.verdict import State, Transition, Verdict, transitions

FORGET_EVERY_S = 600.0
FORGOTTEN_AFTER_S = 7 * 86400.0


class Event(NamedTuple):
    """One attempt, at `at_s`; `verified` when it completed a handshake with a sinkhole."""

    at_s: float
    host: Host
    destination: str
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Proposed:
    """At `at_s` the host has reached the second bound with evidence that no neighbour can forge: `firm` in
    nats.
    """

    host: Host
    at_s: float
    firm: float
    attempts: int


class _Round:
    """What one host did in one round."""

    def __init__(self) -> None:
        self.count = 0
        self.new: list[str] = []
        self.again: list[str] = []
        self.proven: list[str] = []

    def attempts(self) -> Attempts:
        """The same as the judge takes it."""
        return Attempts(self.count, tuple(self.new), 0, tuple(self.again), len(self.proven),
                        tuple(self.proven))


class Recount:
    """What the router's counters would say of events."""

    def __init__(self) -> None:
        self._seen: dict[Host, dict[str, float]] = {}
        self._forgot_s = float("-inf")

    def attempts(self, events: Iterable[Event], now_s: float) -> dict[Host, Attempts]:
        """Each host's attempts of one round that ends at `now_s`."""
        self._forget(now_s)
        rounds: dict[Host, _Round] = {}
        for event in events:
            found = rounds.setdefault(event.host, _Round())
            seen = self._seen.setdefault(event.host, {})
            last_s = seen.get(event.destination, float("-inf"))
            if now_s - last_s >= REMEMBER_DESTINATION_S:
                found.new.append(event.destination)
            elif last_s != now_s:
                found.again.append(event.destination)
            if event.verified:
                found.proven.append(event.destination)
            seen[event.destination] = now_s
            found.count += 1
        return {host: found.attempts() for host, found in rounds.items()}

    def _forget(self, now_s: float) -> None:
        if now_s - self._forgot_s < FORGET_EVERY_S:
            return
        self._forgot_s = now_s
        for host in list(self._seen):
            kept = {d: s for d, s in self._seen[host].items() if now_s - s < REMEMBER_DESTINATION_S}
            if kept:
                self._seen[host] = kept
            else:
                del self._seen[host]


def replay(events: Iterable[Event], detection: Detection, period_s: float) -> Iterator[Transition | Proposed]:
    """How verdicts would have changed, and whom it would have been proposed to hold, had the router seen
    `events`, which must come in the order of time.
    """
    recount, verdicts = Recount(), dict[Host, Verdict]()
    for number, found in groupby(events, lambda event: event.at_s // period_s):
        now_s = (number + 1) * period_s
        changed = judge(verdicts, recount.attempts(found, now_s), detection, now_s)
        yield from transitions(verdicts, changed.values())
        yield from (Proposed(v.host, now_s, v.firm, v.attempts) for v in changed.values()
                    if v.hold and not (v.host in verdicts and verdicts[v.host].hold))
        verdicts |= changed
        _drop(verdicts, changed, now_s)


def _drop(verdicts: dict[Host, Verdict], changed: Mapping[Host, Verdict], now_s: float) -> None:
    """Hosts long clean and silent are forgotten, so that memory does not grow with the trace."""
    if len(verdicts) % 1024 == 0 and changed:
        gone = [host for host, verdict in verdicts.items()
                if verdict.state is State.CLEAN and now_s - verdict.at_s > FORGOTTEN_AFTER_S]
        for host in gone:
            del verdicts[host]
