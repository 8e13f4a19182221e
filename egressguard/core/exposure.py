"""An exposure: a time in which somebody else's change of the rules may have let direct SMTP through."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from egressguard.core.connections import PERMISSIONS, PROHIBITIONS
from egressguard.core.plan import LOOSENING, TIGHTENING, Change, Changes

EVERYTHING = ("direct SMTP of every host, in both address families",)
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Deviation:
    """What was wrong in the kernel, and what it let through; nothing, when it only shut more."""

    text: str
    loose: tuple[str, ...] = ()


def joined(deviations: Iterable[Deviation | None]) -> Deviation | None:
    """Several deviations as one; None where nothing was wrong."""
    found = [deviation for deviation in deviations if deviation is not None]
    if not found:
        return None
    texts, loose = (d.text for d in found), (text for d in found for text in d.loose)
    return Deviation("; ".join(texts), tuple(dict.fromkeys(loose)))


@dataclass(frozen=True, slots=True)
class Program:
    """Who changed the rules, as the kernel names it; in a container the pid is not the one seen there."""

    program: str
    pid: int

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Exposure:
    """`start_s` is when the rules were last seen to be right, `noticed_s` when they were not, `end_s` when
    they were again (monotonic). `passed` are connections that connection tracking still knew, and that were
    ended; `ended` is their number. There may have been others.
    """

    wrong: str
    loose: tuple[str, ...]
    by: tuple[Program, ...]
    start_s: float
    noticed_s: float
    end_s: float
    passed: tuple[str, ...] = ()
    ended: int = 0

    def describe(self) -> str:
        """The exposure as one line of history."""
        who = ", ".join(map(str, self.by)) or "unknown"
        seen = (f"; {self.ended} connections passed and were ended, the first: {self.passed[0]}"
                if self.passed else "")
        repair_ms, whole_s = (self.end_s - self.noticed_s) * 1000, self.end_s - self.start_s
        return (f"{self.wrong}, by {who}; put right {repair_ms:.1f} ms after it was noticed, at most "
                f"{whole_s:.2f} s after it happened; until then may have passed: "
                f"{', '.join(self.loose)}{seen}")


def loose(changes: Changes) -> tuple[str, ...]:
    """What the kernel lets through that it would not after `changes`."""
    found = [text for change in changes for text in _loose(change)]
    more = (f"and {len(found) - MOST_SHOWN} more",) if len(found) > MOST_SHOWN else ()
    return (*found[:MOST_SHOWN], *more)


def _loose(change: Change) -> Iterator[str]:
    again = set(change.added)
    if change.set_name in LOOSENING | PERMISSIONS:
        for element in change.removed:
            if element not in again:
                yield f"{change.set_name} held {' '.join(element)}"
    if change.set_name in TIGHTENING | PROHIBITIONS:
        for element in change.added:
            if element not in change.removed:
                yield f"{change.set_name} lacked {' '.join(element)}"
