"""Repetitions that are counted, and weighed a little later.

A host that goes on trying what it has tried already can only lower its score, and not below its verdict
(detection.py), so nobody waits for the answer; a site where ten thousand hosts do so in every second would
spend its rounds on nothing else. In a round as many as `AT_ONCE` are weighed, or a share of all that wait,
the oldest first: all of them where few try, and each within about half a minute where many do. Whatever may
raise a score is never handed in here, and takes along what waits of its host.
"""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from itertools import islice
from operator import itemgetter

from egressguard.core.attempts import Attempts
from egressguard.core.causes import VISIT_S
from egressguard.core.hosts import Host

AT_ONCE = 300
SHARE = 30  # with a round in every second, so many seconds
NEVER = float("-inf")

Lots = list[tuple[float, dict[Host, Attempts]]]  # evidence, and the monotonic seconds that it is of


class Waiting:
    """Attempts by key, how many readings each is of, and when the key's last one was: sums, not objects,
    because ten thousand change in a round.
    """

    def __init__(self) -> None:
        self._counts: dict[Host, int] = {}  # in the order in which they began to wait
        self._readings = Counter[Host]()
        self._last_s: dict[Host, float] = {}
        self._newest: tuple[Mapping[Host, int], float] = {}, NEVER

    def going_on(self, grown: Mapping[Host, int], now_s: float) -> set[Host]:
        """Which of the keys that try something go on with a visit, so that their repetitions can wait."""
        newest, newest_s = self._newest
        found = grown.keys() & newest.keys() if now_s - newest_s < VISIT_S else set[Host]()
        last_s = self._last_s.get
        found.update([key for key in grown.keys() - found if now_s - last_s(key, NEVER) < VISIT_S])
        return found

    def put(self, grown: Mapping[Host, int], keys: Collection[Host]) -> None:
        """What `keys` have tried waits."""
        counts, waits = self._counts, self._counts.get
        for key, count in grown.items():
            if key in keys:
                counts[key] = waits(key, 0) + count
        self._readings.update(keys)

    def seen(self, grown: Mapping[Host, int], now_s: float) -> None:
        """These have tried something now, whether it waits or not."""
        self._last_s.update(dict.fromkeys(grown, now_s))
        self._newest = grown, now_s

    def due(self) -> list[Host]:
        """The keys whose turn it is."""
        return list(islice(self._counts, max(AT_ONCE, len(self._counts) // SHARE)))

    def __len__(self) -> int:
        return len(self._counts)

    def taken(self, keys: Iterable[Host], machine_of: Mapping[Host, Host]) -> Lots:
        """What waits of `keys`, which it ceases to; keys of one machine are added up under its first."""
        found: dict[Host, tuple[float, int, int]] = {}
        for key in keys:
            count = self._counts.pop(key, 0)
            if count:
                machine = machine_of.get(key, key)
                last_s, before, readings = found.get(machine, (NEVER, 0, 0))
                found[machine] = (max(last_s, self._last_s[key]), before + count,
                                  max(readings, self._readings.pop(key)))
        lots: dict[float, dict[Host, Attempts]] = {}
        for machine, (last_s, count, readings) in found.items():
            lots.setdefault(last_s, {})[machine] = Attempts(count, going_on=readings)
        return sorted(lots.items(), key=itemgetter(0))

    def everything(self) -> list[Host]:
        """Every key of which something waits."""
        return list(self._counts)

    def without(self, values: Mapping[Host, int], elsewhere: Container[Host] = ()) -> Mapping[Host, int]:
        """Counters as they would stand if what waits had not been tried yet; below zero, where a counter has
        begun anew meanwhile. A process that goes on from there misses nothing, and counts nothing twice.
        What has a counter `elsewhere` is told there.
        """
        late = {key: values[key] - count for key, count in self._counts.items()
                if key in values and key not in elsewhere}
        return {**values, **late} if late else values

    def forget(self, now_s: float) -> None:
        """Drops the times that say nothing any more."""
        self._last_s = {key: last_s for key, last_s in self._last_s.items()
                        if now_s - last_s < VISIT_S or key in self._counts}
