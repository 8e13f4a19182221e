"""What limit would have delayed just a few of a web server's messages: learnt from what relays have reported.

History has counts per window of ten minutes. Whatever is over a limit waits and comes in the next window, so
the share that would have been delayed follows from the counts alone. It is a model: windows stand still while
a relay's slide, so a burst across a boundary is delayed a little more than is said here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from egressguard.core.volumes import Volume

TARGET = 0.01
ENOUGH_WINDOWS = 12  # two hours with mail: with less there is nothing to learn from
KINDS = ("messages", "recipients", "refused_recipients")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A limit per window for one kind, and what it would have done: `delayed` of `total`, in `windows`.

    `least` is whether a relay's limit was at work already: then what was wanted is more than what was seen.
    """

    kind: str
    limit: int
    total: int
    delayed: int
    windows: int
    largest: int
    least: bool

    @property
    def share(self) -> float:
        """What part would have been delayed."""
        return self.delayed / self.total if self.total else 0.0


def proposals(history: Mapping[int, Volume], target: float = TARGET) -> list[Proposal]:
    """A proposal for each kind that there is enough history of; `history` is by window."""
    columns = {"messages": [v.accepted for v in history.values()],
               "recipients": [v.recipients for v in history.values()],
               "refused_recipients": [v.refused for v in history.values()]}
    held = any(volume.deferred for volume in history.values())
    found = []
    for kind in KINDS:
        counts = dict(zip(history, columns[kind], strict=True))
        if sum(n > 0 for n in counts.values()) >= ENOUGH_WINDOWS:
            found.append(_proposal(kind, counts, target, held))
    return found


def _proposal(kind: str, counts: Mapping[int, int], target: float, held: bool) -> Proposal:
    series, total = _series(counts), sum(counts.values())
    low, high = 1, max(counts.values())
    while low < high:
        middle = (low + high) // 2
        if delayed(series, middle) <= target * total:
            high = middle
        else:
            low = middle + 1
    return Proposal(kind, low, total, delayed(series, low), len(counts), max(counts.values()), held)


def delayed(series: Sequence[int], limit: int) -> int:
    """How many would not have passed in the window in which they came, with so many allowed in each."""
    waiting = late = 0
    for count in series:
        waiting += count
        late += max(0, min(count, waiting - limit))
        waiting = max(0, waiting - limit)
    return late


def _series(counts: Mapping[int, int]) -> list[int]:
    """The counts with the silence between them, as far as something may still be waiting."""
    series: list[int] = []
    before: int | None = None
    for window in sorted(counts):
        if before is not None:
            series += [0] * min(window - before - 1, 144)
        series.append(counts[window])
        before = window
    return series
