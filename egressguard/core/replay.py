"""Attempts from a list of events instead of from counters: as the router would have counted them.

The memory is bounded: a destination is forgotten when the router's counters would have forgotten it.
"""

from collections.abc import Iterable, Iterator, Mapping
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


class Recount:
    """What the router's counters would say of events."""

    def __init__(self) -> None:
        self._seen: dict[Host, dict[str, float]] = {}
        self._forgot_s = float("-inf")

    def attempts(self, events: Iterable[Event], now_s: float) -> dict[Host, Attempts]:
        """Each host's attempts of one round that ends at `now_s`."""
        self._forget(now_s)
        rounds: dict[Host, tuple[int, int, list[str], list[str]]] = {}
        for event in events:
            count, verified, new, again = rounds.get(event.host, (0, 0, [], []))
            seen = self._seen.setdefault(event.host, {})
            last_s = seen.get(event.destination, float("-inf"))
            if now_s - last_s >= REMEMBER_DESTINATION_S:
                new.append(event.destination)
            elif last_s != now_s:
                again.append(event.destination)
            seen[event.destination] = now_s
            rounds[event.host] = count + 1, verified + event.verified, new, again
        return {host: Attempts(count, tuple(new), 0, tuple(again), verified)
                for host, (count, verified, new, again) in rounds.items()}

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


def replay(events: Iterable[Event], detection: Detection, period_s: float) -> Iterator[Transition]:
    """How verdicts would have changed, had the router seen `events`, which must come in the order of time."""
    recount, verdicts = Recount(), dict[Host, Verdict]()
    for number, found in groupby(events, lambda event: event.at_s // period_s):
        now_s = (number + 1) * period_s
        changed = judge(verdicts, recount.attempts(found, now_s), detection, now_s)
        yield from transitions(verdicts, changed.values())
        verdicts |= changed
        _drop(verdicts, changed, now_s)


def _drop(verdicts: dict[Host, Verdict], changed: Mapping[Host, Verdict], now_s: float) -> None:
    """Hosts long clean and silent are forgotten, so that memory does not grow with the trace."""
    if len(verdicts) % 1024 == 0 and changed:
        gone = [host for host, verdict in verdicts.items()
                if verdict.state is State.CLEAN and now_s - verdict.at_s > FORGOTTEN_AFTER_S]
        for host in gone:
            del verdicts[host]
