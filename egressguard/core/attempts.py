"""From cumulative kernel counters to attempts: what happened between two samples.

Three facts of the kernel shape this file. A smaller value is a new incarnation of the counter, never a
negative number of attempts. A dump of a set that grows meanwhile can miss elements, so absent does not mean
gone. And an element with a timeout that has not been seen for as long as it lives is gone, so what stands
in its place is new, even with the same value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from egressguard.core.hosts import Host
from egressguard.core.ruleset import DESTINATION_LIFETIME_S, STRANGER_LIFETIME_S

# A destination that comes again within this time is not new, although its element was gone meanwhile.
REMEMBER_DESTINATION_S = 3600.0

Destination = str
Pair = tuple[Host, Destination]
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Totals:
    """The named counters of rules/, in packets since the table was made."""

    blocked: int = 0
    attempts: int = 0
    quarantined: int = 0
    spoofed: int = 0
    odd: int = 0
    tunneled: int = 0
    overflow: int = 0
    fanout_overflow: int = 0
    mac_overflow: int = 0
    redirected: int = 0
    sinkholed: int = 0
    stray: int = 0
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of the kernel at `at_s` (monotonic seconds): cumulative, never reset.

    `inventory` and `strangers` count per host, `destinations` per host and outside destination; `macs` are
    the link-layer addresses that a host's attempts came from within the last hour.
    """

    at_s: float
    totals: Totals = field(default_factory=Totals)
    inventory: Mapping[Host, int] = field(default_factory=dict)
    strangers: Mapping[Host, int] = field(default_factory=dict)
    destinations: Mapping[tuple[Host, Destination], int] = field(default_factory=dict)
    macs: Mapping[Host, frozenset[str]] = field(default_factory=dict)

    def without(self, hosts: frozenset[Host]) -> "Sample":
        """The sample as if `hosts` did not exist; itself, uncopied, when it does not name them."""
        if not any(host in self.inventory or host in self.strangers for host in hosts):
            return self
        return replace(
            self, inventory={h: n for h, n in self.inventory.items() if h not in hosts},
            strangers={h: n for h, n in self.strangers.items() if h not in hosts},
            destinations={pair: n for pair, n in self.destinations.items() if pair[0] not in hosts},
            macs={h: m for h, m in self.macs.items() if h not in hosts})

    @property
    def attempts(self) -> dict[Host, int]:
        """Attempts of every host, of the inventory or not."""
        return {**self.strangers, **self.inventory}


@dataclass(frozen=True, slots=True)
class Seen:
    """The last value of one counter and when it was read."""

    count: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the counters said when they were last seen; the next sample is compared with it."""

    inventory: Mapping[Host, Seen] = field(default_factory=dict)
    strangers: Mapping[Host, Seen] = field(default_factory=dict)
    destinations: Mapping[Pair, Seen] = field(default_factory=dict)
    fanout_overflow: int = 0


@dataclass(frozen=True, slots=True)
class Attempts:
    """One host's attempts between two samples: to destinations that are new to it, to known ones, and to
    ones that had no room in the kernel's sets, so that nobody knows.

    `verified` handshakes of the host were completed with a sinkhole, which no neighbour can do in its name.
    """

    count: int
    new_destinations: tuple[Destination, ...] = ()
    unknown: int = 0
    verified: int = 0


def between(baseline: Baseline, sample: Sample) -> dict[Host, Attempts]:
    """Each host's attempts since `baseline`; hosts without any are absent."""
    new, recorded = _destinations(baseline, sample)
    full = sample.totals.fanout_overflow > baseline.fanout_overflow
    result: dict[Host, Attempts] = {}
    for seen, counts, lifetime_s in ((baseline.strangers, sample.strangers, STRANGER_LIFETIME_S),
                                     (baseline.inventory, sample.inventory, float("inf"))):
        for host, count in counts.items():
            added = increase(_living(seen.get(host), sample.at_s, lifetime_s), count)
            if added:
                unknown = max(0, added - recorded.get(host, 0)) if full else 0
                result[host] = Attempts(added, tuple(new.get(host, ())), unknown)
    return result


def _destinations(baseline: Baseline, sample: Sample
                  ) -> tuple[dict[Host, list[Destination]], dict[Host, int]]:
    """The new destinations of each host, and how many of its attempts went to any that is recorded."""
    new: dict[Host, list[Destination]] = {}
    recorded: dict[Host, int] = {}
    for pair, count in sample.destinations.items():
        old = _living(baseline.destinations.get(pair), sample.at_s, DESTINATION_LIFETIME_S)
        if pair not in baseline.destinations:
            new.setdefault(pair[0], []).append(pair[1])
        recorded[pair[0]] = recorded.get(pair[0], 0) + increase(old, count)
    return new, recorded


def _living(seen: Seen | None, now_s: float, lifetime_s: float) -> Seen | None:
    return seen if seen is not None and now_s - seen.at_s < lifetime_s else None


def joined(evidence: Iterable[Mapping[Host, Attempts]], machine_of: Mapping[Host, Host]
           ) -> dict[Host, Attempts]:
    """`evidence` of every table, with the keys of one machine added up under its first key."""
    result: dict[Host, Attempts] = {}
    for key, found in (item for table in evidence for item in table.items()):
        host = machine_of.get(key, key)
        old = result.get(host, Attempts(0))
        result[host] = Attempts(old.count + found.count, old.new_destinations + found.new_destinations,
                                old.unknown + found.unknown, old.verified + found.verified)
    return result


def increase(seen: Seen | None, count: int) -> int:
    """How much a cumulative counter grew; a decrease is a new incarnation that began at zero."""
    return count if seen is None or count < seen.count else count - seen.count


def advance(baseline: Baseline, sample: Sample) -> Baseline:
    """The baseline for the next sample: this one's values, and what it did not show but may still be."""
    at_s = sample.at_s
    return Baseline(_merged(baseline.inventory, sample.inventory, at_s, float("inf")),
                    _merged(baseline.strangers, sample.strangers, at_s, STRANGER_LIFETIME_S),
                    _merged(baseline.destinations, sample.destinations, at_s, REMEMBER_DESTINATION_S),
                    sample.totals.fanout_overflow)


def _merged(old: Mapping[K, Seen], counts: Mapping[K, int], now_s: float, lifetime_s: float) -> dict[K, Seen]:
    merged = {key: seen for key, seen in old.items() if now_s - seen.at_s < lifetime_s}
    merged.update((key, Seen(count, now_s)) for key, count in counts.items())
    return merged
