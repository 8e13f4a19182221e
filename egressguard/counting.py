"""The counters of every table as they were seen last, and the attempts that come of the next reading.

Counts live in the kernel first: what is recorded here is absolute, and what was not recorded when a process
was killed is counted by the next one.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain

from egressguard.beside import Beside
from egressguard.core import attempts
from egressguard.core.attempts import Attempts, Baseline, Counters, Sample, Totals
from egressguard.core.hosts import Host
from egressguard.core.inventory import Inventory
from egressguard.core.waiting import Lots, Waiting
from egressguard.database import Database, changed
from egressguard.kernel import Kernel
from egressguard.proofs import Proofs

READ_EVERY_S = 15.0  # all destinations, while a queue's retries are waited for


class Counting:
    """Holds what one reading leaves for the next: the last counters, and the attempts that wait.

    `totals` are the named counters as last read, `incarnation` is the life of the table that has them.
    """

    def __init__(self, kernel: Kernel, database: Database) -> None:
        self.totals: Totals | None = None
        self.beside = Beside(database)
        self.proofs = Proofs()
        self._kernel, self._database = kernel, database
        self.incarnation = ""
        self._baseline = self._saved = Baseline()
        self._weighed = self._saved
        self._moved = self._hurry = False
        self._waiting = Waiting()
        self._grown: dict[Host, int] = {}
        self._unjudged: set[Host] = set()
        self._read_s = float("-inf")

    @property
    def destinations(self) -> Counters[attempts.Pair]:
        """What each host has tried lately."""
        return self._baseline.destinations

    def start(self, incarnation: str) -> None:
        """Takes up what was recorded of the table. Raises DatabaseError."""
        self.incarnation = incarnation
        self._baseline = self._saved = self._database.baseline(incarnation)

    def renew(self, incarnation: str) -> bool:
        """For a table that was made anew, whose counters began at zero; whether this one was."""
        if incarnation == self.incarnation:
            return False
        self.incarnation = incarnation
        self._baseline, self._saved, self.totals = Baseline(), Baseline(), None
        self._hurry = self._moved = True  # what waits is in no counter any more
        return True

    def read(self, now_s: float, owed: bool) -> Sample | None:
        """All counters, or None when no named counter has moved: then no other has. Raises KernelError.

        What a queue that is `owed` retries to is read now and then even when no destination is new.
        """
        totals = self._kernel.totals()
        if totals == self.totals:
            return None
        since = self.totals
        if owed and now_s - self._read_s >= READ_EVERY_S:
            since, self._read_s = None, now_s  # which known destinations are tried again is of interest
        sample = self._kernel.sample(now_s, since)
        self.totals = totals  # read before the elements: what came later makes the next round look again
        return sample

    def tried_any(self, host: Host) -> bool:
        """Whether this one has made an attempt since the last sample, judged for it or not."""
        return host in self._grown or host in self._unjudged

    def tried(self, sample: Sample | None, inventory: Inventory, queued: Collection[Host], now_s: float
              ) -> dict[Host, Attempts]:
        """What hosts have tried since the last sample and is not put to wait: whatever may raise a score,
        whatever begins a visit, and all of the machines that are `queued`.
        """
        self._grown, self._unjudged = {}, set()
        if sample is None:
            return {}
        grown = self._grown = attempts.grown(self._baseline, sample)
        for key in inventory.unjudged:
            if grown.pop(key, None):
                self._unjudged.add(key)
        waits = self._patient(sample, inventory, queued, now_s)
        self._waiting.put(grown, waits)
        chosen = {key: by for key, by in grown.items() if key not in waits}
        found = attempts.between(self._baseline, sample, chosen)
        for key in found.keys() & inventory.unjudged:
            del found[key]
        self._baseline, self._moved = attempts.advance(self._baseline, sample), True
        return found

    def _patient(self, sample: Sample, inventory: Inventory, queued: Collection[Host], now_s: float
                 ) -> set[Host]:
        if attempts.overflowed(self._baseline, sample):
            return set()
        waits = self._waiting.going_on(self._grown, now_s)
        waits.difference_update(attempts.new_destinations(self._baseline, sample), self.proofs.hosts())
        waits.difference_update(*map(inventory.keys_of, queued))
        return waits

    def lots(self, now: dict[Host, Attempts], inventory: Inventory, now_s: float) -> Lots:
        """The evidence `now`, after what has waited of the same machines and of those whose turn it is."""
        before = self._waiting.taken([key for machine in now for key in inventory.keys_of(machine)],
                                     inventory.machine_of)
        self._waiting.seen(self._grown, now_s)
        self._grown = {}
        due = self._waiting.everything() if self._hurry else self._waiting.due()
        self._hurry = False
        return [*before, *self._taken(due, inventory), (now_s, now)]

    def _taken(self, keys: Iterable[Host], inventory: Inventory) -> Lots:
        """What waits of the machines that have these keys."""
        machine_of = inventory.machine_of
        whole = [other for key in keys for other in inventory.keys_of(machine_of.get(key, key))]
        self._moved |= bool(whole)
        return self._waiting.taken(whole, machine_of)

    def everything(self, inventory: Inventory) -> Lots:
        """All that waits."""
        return self._taken(self._waiting.everything(), inventory)

    def unsaved(self) -> Baseline | None:
        """The counters that have moved since `saved`, as far as their attempts were weighed; None if nothing
        has happened.
        """
        if not self._moved:
            return None
        seen = self._baseline
        self._weighed = replace(
            seen, inventory=replace(seen.inventory, values=self._waiting.without(seen.inventory.values)),
            strangers=replace(seen.strangers, values=self._waiting.without(seen.strangers.values,
                                                                           seen.inventory.values)))
        return changed(self._saved, self._weighed)

    def saved(self) -> None:
        """What was unsaved has been recorded."""
        self._saved, self._moved = self._weighed, False
        self.beside.saved()

    def hosts(self) -> Iterator[Host]:
        """Every key that is counted anywhere."""
        return chain(self._baseline.inventory.values, self._baseline.strangers.values, self.beside.hosts())

    def forget(self, now_s: float) -> None:
        """Now and then: drops what is not needed any more."""
        self._waiting.forget(now_s)

    def close(self) -> None:
        """Ceases to listen for handshakes."""
        self.proofs.close()
