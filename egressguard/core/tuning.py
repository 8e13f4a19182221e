"""What limit would have delayed just a few of a web server's messages: learnt from what relays have reported.

History has counts per window of ten minutes. Whatever is over a limit waits and comes in the next window, so
the share that would have been delayed follows from the counts alone. It is a model: windows stand still while
a relay's slide, so a burst across a boundary is delayed a little more than is said here. Of connections that
are open at once, and of messages in one, history has the most in each window: there the target is a share of
windows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from egressguard.core.volumes import Volume

TARGET = 0.01
ENOUGH_WINDOWS = 12  # two hours with mail: with less there is nothing to learn from
COUNTS: Mapping[str, Callable[[Volume], int]] = {
    "messages": lambda v: v.accepted, "recipients": lambda v: v.recipients,
    "refused_recipients": lambda v: v.refused, "connections": lambda v: v.connections}
PEAKS: Mapping[str, Callable[[Volume], int]] = {
    "open_connections": lambda v: v.most_open, "messages_per_connection": lambda v: v.most_messages}
KNOWN_SHARE = 0.5  # of messages whose own recipients must be known
# Why there is no proposal for a limit of the relay.
FEW_ALONE = {"recipients_per_message": "history has the recipients of a window, and too few windows in which "
                                      "these tell how many each message had"}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A limit for one kind, per window or per message, and what it would have done: `delayed` of `total`, in
    `windows`. Of `PEAKS`, windows are what is counted.

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
    held = any(volume.deferred for volume in history.values())
    found = []
    for kind, count in COUNTS.items():
        counts = {window: count(volume) for window, volume in history.items()}
        if sum(n > 0 for n in counts.values()) >= ENOUGH_WINDOWS:
            found.append(_proposal(kind, counts, target, held))
    for kind, most in PEAKS.items():
        peaks = sorted(n for n in map(most, history.values()) if n > 0)
        if len(peaks) >= ENOUGH_WINDOWS:
            found.append(_of_peaks(kind, peaks, target, held))
    return found + _per_message(history, target, held)


def missing(history: Mapping[int, Volume], found: Sequence[Proposal]) -> dict[str, str]:
    """Why there is no proposal for the other limits, by name."""
    few = f"mail in fewer than {ENOUGH_WINDOWS} windows of ten minutes"
    windows, proposed = history.values(), {proposal.kind for proposal in found}
    reasons = {kind: f"too little history: {few}" if any(map(count, windows)) else "relays have told of none"
               for kind, count in {**COUNTS, **PEAKS}.items()}
    return {kind: why for kind, why in {**reasons, **FEW_ALONE}.items() if kind not in proposed}


def _of_peaks(kind: str, peaks: Sequence[int], target: float, held: bool) -> Proposal:
    """The smallest limit that at most the target share of windows have been above; `peaks` are sorted."""
    limit = peaks[len(peaks) - 1 - int(target * len(peaks))]
    over = sum(peak > limit for peak in peaks)
    return Proposal(kind, limit, len(peaks), over, len(peaks), peaks[-1], held)


def _per_message(history: Mapping[int, Volume], target: float, held: bool) -> list[Proposal]:
    """What each message had is known where a window had but one, or as many recipients as messages."""
    alone = [v for v in history.values() if v.accepted and (v.accepted == 1 or v.recipients == v.accepted)]
    known, total = sum(v.accepted for v in alone), sum(v.accepted for v in history.values())
    if len(alone) < ENOUGH_WINDOWS or known < KNOWN_SHARE * total:
        return []
    sizes = sorted(((max(1, v.recipients // v.accepted), v.accepted) for v in alone), reverse=True)
    over, limit = 0, sizes[0][0]
    for size, messages in sizes:
        limit = size
        if over + messages > target * known:
            break
        over += messages
    over = sum(messages for size, messages in sizes if size > limit)
    return [Proposal("recipients_per_message", limit, known, over, len(alone), sizes[0][0], held)]


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
