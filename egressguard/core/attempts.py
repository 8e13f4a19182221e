"""From cumulative kernel counters to attempts: what happened between two samples.

Two facts of the kernel shape this file. A smaller value is a new incarnation of the counter, never
a negative number of attempts. And a dump of a set that grows meanwhile can miss elements, so absent
does not mean gone: an element is forgotten only after `MEMORY_S` without being seen, which is longer
than any element of rules/ lives untouched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from egressguard.core.hosts import Host

MEMORY_S = 2 * 3600.0

Destination = str
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Totals:
    """The named counters of rules/, in packets since the table was made."""

    blocked: int = 0
    attempts: int = 0
    quarantined: int = 0
    spoofed: int = 0
    odd: int = 0
    overflow: int = 0
    fanout_overflow: int = 0
    mac_overflow: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of the kernel at `at_s` (monotonic seconds): cumulative, never reset.

    `attempts` counts per host, `destinations` per host and outside destination; `macs` are the link-layer
    addresses that a host's attempts came from within the last hour.
    """

    at_s: float
    totals: Totals = field(default_factory=Totals)
    attempts: Mapping[Host, int] = field(default_factory=dict)
    destinations: Mapping[tuple[Host, Destination], int] = field(default_factory=dict)
    macs: Mapping[Host, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """The last value of one counter and when it was read."""

    count: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the counters said when they were last seen; the next sample is compared with it."""

    attempts: Mapping[Host, Seen] = field(default_factory=dict)
    destinations: Mapping[tuple[Host, Destination], Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempts:
    """One host's attempts between two samples, and the destinations that were new to it."""

    count: int
    new_destinations: tuple[Destination, ...] = ()


def between(baseline: Baseline, sample: Sample) -> dict[Host, Attempts]:
    """Each host's attempts since `baseline`; hosts without any are absent."""
    new: dict[Host, list[Destination]] = {}
    for pair in sample.destinations:
        if pair not in baseline.destinations:
            new.setdefault(pair[0], []).append(pair[1])
    result: dict[Host, Attempts] = {}
    for host, count in sample.attempts.items():
        added = increase(baseline.attempts.get(host), count)
        if added:
            result[host] = Attempts(added, tuple(new.get(host, ())))
    return result


def joined(evidence: Mapping[Host, Attempts], machine_of: Mapping[Host, Host]) -> dict[Host, Attempts]:
    """`evidence` with the keys of one machine added up under its first key."""
    result: dict[Host, Attempts] = {}
    for key, found in evidence.items():
        host = machine_of.get(key, key)
        old = result.get(host, Attempts(0))
        result[host] = Attempts(old.count + found.count, old.new_destinations + found.new_destinations)
    return result


def increase(seen: Seen | None, count: int) -> int:
    """How much a cumulative counter grew; a decrease is a new incarnation that began at zero."""
    return count if seen is None or count < seen.count else count - seen.count


def advance(baseline: Baseline, sample: Sample) -> Baseline:
    """The baseline for the next sample: this one's values, and what it did not show but may still be."""
    return Baseline(_merge(baseline.attempts, sample.attempts, sample.at_s),
                    _merge(baseline.destinations, sample.destinations, sample.at_s))


def _merge(old: Mapping[K, Seen], counts: Mapping[K, int], now_s: float) -> dict[K, Seen]:
    merged = {key: seen for key, seen in old.items() if now_s - seen.at_s < MEMORY_S}
    merged.update((key, Seen(count, now_s)) for key, count in counts.items())
    return merged
