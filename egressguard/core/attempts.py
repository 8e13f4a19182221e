"""From cumulative kernel counters to attempts: what happened between two samples.

Three facts of the kernel shape this file. A smaller value is a new incarnation of the counter, never a
negative number of attempts. A dump of a set that grows meanwhile can miss elements, so absent does not mean
gone. And an element with a timeout that has not been seen for as long as it lives is gone, so what stands
in its place is new, even with the same value.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import compress
from operator import eq, sub
from typing import Generic, NamedTuple, TypeVar

from egressguard.core.hosts import Host, host_of
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
    transit: int = 0
    unasked: int = 0
    odd: int = 0
    tunneled: int = 0
    overflow: int = 0
    fanout_overflow: int = 0
    mac_overflow: int = 0
    destinations: int = 0
    redirected: int = 0
    sinkholed: int = 0
    stray: int = 0
    unread: int = 0
    counted: int = 0
    counted_overflow: int = 0


@dataclass(frozen=True, slots=True)
class Transit:
    """What was tried from an interface that is not inside: how often within a day, and by whom within an
    hour, as far as there was room. Nobody is judged by it.
    """

    attempts: int
    hosts: Mapping[Host, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of the kernel at `at_s` (monotonic seconds): cumulative, never reset.

    `inventory` and `strangers` count per host, `destinations` per host and outside destination (None: not
    read, since none is new); `macs` are the link-layer addresses that an address's attempts came from within
    the last hour.
    """

    at_s: float
    totals: Totals = field(default_factory=Totals)
    inventory: Mapping[Host, int] = field(default_factory=dict)
    strangers: Mapping[Host, int] = field(default_factory=dict)
    destinations: Mapping[Pair, int] | None = field(default_factory=dict)
    macs: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def without(self, hosts: frozenset[Host]) -> "Sample":
        """The sample as if `hosts` did not exist; itself, uncopied, when it does not name them."""
        if not any(host in self.inventory or host in self.strangers for host in hosts):
            return self
        return replace(
            self, inventory={h: n for h, n in self.inventory.items() if h not in hosts},
            strangers={h: n for h, n in self.strangers.items() if h not in hosts},
            destinations=None if self.destinations is None else {
                pair: n for pair, n in self.destinations.items() if pair[0] not in hosts},
            macs={a: m for a, m in self.macs.items() if host_of(ip_address(a)) not in hosts})

    @property
    def attempts(self) -> dict[Host, int]:
        """Attempts of every host, of the inventory or not."""
        return {**self.strangers, **self.inventory}


@dataclass(frozen=True, slots=True)
class Counters(Generic[K]):
    """The last values of one kind of counter, as of `at_s`; of those that this reading lacked, `absent` says
    when they were last seen.
    """

    values: Mapping[K, int] = field(default_factory=dict)
    at_s: float = float("-inf")
    absent: Mapping[K, float] = field(default_factory=dict)

    def seen_s(self, key: K) -> float:
        """When this counter was last seen."""
        return self.absent.get(key, self.at_s)

    def growth(self, values: Mapping[K, int], now_s: float, lifetime_s: float) -> dict[K, int]:
        """Which counters grew until `values`, and by how much; what was unseen for a lifetime began anew."""
        all_live = not self.absent and now_s - self.at_s < lifetime_s
        if all_live and len(values) == len(self.values) and all(map(eq, values, self.values)):
            # The usual case, a hundred thousand times: the same counters in the same order, none of which
            # has begun anew.
            by = tuple(map(sub, values.values(), self.values.values()))
            if not by or min(by) >= 0:
                return dict(compress(zip(values, by, strict=True), by))
        grown = {key: increase(self._living(key, now_s, lifetime_s), value) for key, value in values.items()}
        return {key: by for key, by in grown.items() if by}

    def _living(self, key: K, now_s: float, lifetime_s: float) -> int | None:
        return self.values.get(key) if now_s - self.seen_s(key) < lifetime_s else None

    def advanced(self, values: Mapping[K, int], now_s: float, remember_s: float) -> "Counters[K]":
        """The same with `values`, and with what these lack but was seen not too long ago."""
        if self.values.keys() <= values.keys():
            return Counters(values, now_s)
        lacking = self.values.keys() - values.keys()
        absent = {key: seen_s for key in lacking if now_s - (seen_s := self.seen_s(key)) < remember_s}
        if not absent:
            return Counters(values, now_s)
        return Counters({**{key: self.values[key] for key in absent}, **values}, now_s, absent)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the counters said when they were last seen; the next sample is compared with it."""

    inventory: Counters[Host] = field(default_factory=Counters)
    strangers: Counters[Host] = field(default_factory=Counters)
    destinations: Counters[Pair] = field(default_factory=Counters)
    fanout_overflow: int = 0


class Attempts(NamedTuple):
    """One host's attempts between two samples: to destinations that are new to it, to known ones that it
    tried again, and to ones that had no room in the kernel's sets, so that nobody knows.

    Those that were `retried` are told when destinations are read, which may be later than the attempts.
    `verified` handshakes of the host were completed with a sinkhole, towards the destinations `proven`, which
    no neighbour can do in its name. `going_on` are repetitions within a visit that had begun before, and of
    how many readings in a row they are; 0 where a visit may begin.
    """

    count: int  # type: ignore[assignment]
    new_destinations: tuple[Destination, ...] = ()
    unknown: int = 0
    retried: tuple[Destination, ...] = ()
    verified: int = 0
    proven: tuple[Destination, ...] = ()
    going_on: int = 0


def grown(baseline: Baseline, sample: Sample) -> dict[Host, int]:
    """How many attempts each host has made since `baseline`; hosts without any are absent."""
    strangers = baseline.strangers.growth(sample.strangers, sample.at_s, STRANGER_LIFETIME_S)
    return strangers | baseline.inventory.growth(sample.inventory, sample.at_s, float("inf"))


def overflowed(baseline: Baseline, sample: Sample) -> bool:
    """Whether destinations of attempts since `baseline` had no room, so that nobody knows them."""
    return sample.totals.fanout_overflow > baseline.fanout_overflow


def between(baseline: Baseline, sample: Sample, chosen: Mapping[Host, int] | None = None
            ) -> dict[Host, Attempts]:
    """Each host's attempts since `baseline`; hosts without any are absent. Of those that have `grown`, all,
    or the `chosen` ones.
    """
    full = overflowed(baseline, sample)
    new, (recorded, again) = new_destinations(baseline, sample), _recorded(baseline, sample)
    result: dict[Host, Attempts] = {}
    for host, added in (grown(baseline, sample) if chosen is None else chosen).items():
        unknown = max(0, added - recorded.get(host, 0)) if full else 0
        result[host] = Attempts(added, tuple(new.pop(host, ())), unknown, tuple(again.get(host, ())))
    # Hosts are read before destinations, so an attempt in between is counted by the next reading only, which
    # will know its destination: it is told now, or it would never be new.
    result.update((host, Attempts(0, tuple(found))) for host, found in new.items())
    return result


def new_destinations(baseline: Baseline, sample: Sample) -> dict[Host, list[Destination]]:
    """The destinations that are new to a host, of every host that has any."""
    new: dict[Host, list[Destination]] = {}
    known = baseline.destinations.values
    for host, destination in (pair for pair in sample.destinations or () if pair not in known):
        new.setdefault(host, []).append(destination)
    return new


def _recorded(baseline: Baseline, sample: Sample) -> tuple[dict[Host, int], dict[Host, list[Destination]]]:
    """How many of each host's attempts went to any destination that is recorded, and which ones it knew."""
    recorded: dict[Host, int] = {}
    again: dict[Host, list[Destination]] = {}
    known = baseline.destinations.values
    moved = baseline.destinations.growth(sample.destinations or {}, sample.at_s, DESTINATION_LIFETIME_S)
    for (host, destination), by in moved.items():
        recorded[host] = recorded.get(host, 0) + by
        if (host, destination) in known:
            again.setdefault(host, []).append(destination)
    return recorded, again


def joined(evidence: Iterable[Mapping[Host, Attempts]], machine_of: Mapping[Host, Host],
           unjudged: Collection[Host] = ()) -> dict[Host, Attempts]:
    """`evidence` of every table, with the keys of one machine added up under its first key, and without those
    that are held against nobody.
    """
    result: dict[Host, Attempts] = {}
    for key, found in (item for table in evidence for item in table.items() if item[0] not in unjudged):
        host = machine_of.get(key, key)
        result[host] = added(result[host], found) if host in result else found
    return result


def added(one: Attempts, other: Attempts) -> Attempts:
    """Both together."""
    return Attempts(one.count + other.count, one.new_destinations + other.new_destinations,
                    one.unknown + other.unknown, one.retried + other.retried, one.verified + other.verified,
                    one.proven + other.proven, min(one.going_on, other.going_on))


def increase(seen: int | None, count: int) -> int:
    """How much a cumulative counter grew; a decrease is a new incarnation that began at zero."""
    return count if seen is None or count < seen else count - seen


def advance(baseline: Baseline, sample: Sample) -> Baseline:
    """The baseline for the next sample: this one's values, and what it did not show but may still be."""
    at_s = sample.at_s
    destinations = baseline.destinations
    if sample.destinations is not None:
        destinations = destinations.advanced(sample.destinations, at_s, REMEMBER_DESTINATION_S)
    return Baseline(baseline.inventory.advanced(sample.inventory, at_s, float("inf")),
                    baseline.strangers.advanced(sample.strangers, at_s, STRANGER_LIFETIME_S),
                    destinations, sample.totals.fanout_overflow)
