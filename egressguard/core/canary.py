"""The canary: one SYN per family from an address that may not send, and what its fate says about the rules.

A counter that has moved proves that the rules saw the SYN, and only that; whether it left is decided by what
was seen on the interfaces. Both are needed: a rule can count and let pass, or never see what passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Fate(StrEnum):
    """What became of one SYN."""

    REFUSED = "refused"      # by the rules, and counted once
    UNCOUNTED = "uncounted"  # it did not get out, but the rules did not count it once
    LEAKED = "leaked"        # it got out, or somebody else took it
    UNABLE = "unable"        # it could not be sent, so nothing is proven
    GROUNDED = "grounded"    # it was not sent, because nothing would have refused it


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen of one SYN: how often the rules counted it, the outside and the inside interfaces it left
    by, and its answer: `reset`, `unreachable`, `accepted`, or nothing. `spoofed`, `odd` and `overflow` are
    what these counters moved by meanwhile, which others may have caused.
    """

    destination: str
    counted: int
    left_by: tuple[str, ...] = ()
    answer: str = ""
    spoofed: int = 0
    odd: int = 0
    overflow: int = 0
    led_inside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flight:
    """The fate of the SYN in one family (4 or 6), in words."""

    family: int
    fate: Fate
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """The flights in both families, and when they ended (monotonic seconds)."""

    at_s: float
    flights: tuple[Flight, ...]

    def having(self, *fates: Fate) -> tuple[Flight, ...]:
        """The flights with one of these fates."""
        return tuple(flight for flight in self.flights if flight.fate in fates)


def judge(family: int, trace: Trace) -> Flight:
    """What `trace` proves."""
    syn = f"the canary's SYN to {trace.destination}"
    if trace.left_by:
        how = ("the rules counted it and let it pass" if trace.counted
               else "it did not reach the rules")
        return Flight(family, Fate.LEAKED, f"{syn} left by {', '.join(trace.left_by)}: {how}")
    if trace.led_inside:
        return Flight(family, Fate.UNCOUNTED, f"{syn} was led to a host behind "
                      f"{', '.join(trace.led_inside)}: something before the rules redirects port 25")
    if trace.answer == "accepted":
        return Flight(family, Fate.LEAKED, f"{syn} was accepted by this machine itself: something before the "
                      "rules redirects port 25")
    if trace.counted == 0:
        return Flight(family, Fate.UNCOUNTED, f"{syn} did not reach the rules: something before them stopped "
                      f"it{_hint(trace)}")
    if trace.counted > 1:
        return Flight(family, Fate.UNCOUNTED, f"{syn} was sent once and counted {trace.counted} times")
    return Flight(family, Fate.REFUSED, f"{syn} was refused ({trace.answer or 'silently'}) and counted once")


def _hint(trace: Trace) -> str:
    if trace.spoofed:
        return "; the rules refused a source as forged meanwhile: routes may contradict each other"
    if trace.odd:
        return "; the rules refused a packet as odd meanwhile: connection tracking may be at fault"
    if trace.overflow:
        return ", or found no room in a counting set: with canary.enabled it has a counter of its own"
    return ", or it was dropped on its way (another table's drop, rp_filter, XDP)"


def run_of(value: Mapping[str, Any] | None) -> Run | None:
    """The run in what `dataclasses.asdict` made of one. Raises ValueError, KeyError or TypeError."""
    if value is None:
        return None
    flights = tuple(Flight(f["family"], Fate(f["fate"]), f["text"]) for f in value["flights"])
    return Run(value["at_s"], flights)


def summary(run: Run) -> str:
    """One line: the words of what went wrong, or that all was refused."""
    told = run.having(Fate.LEAKED, Fate.UNCOUNTED, Fate.UNABLE, Fate.GROUNDED)
    return "; ".join(f.text for f in told) or "refused and counted in every family"
