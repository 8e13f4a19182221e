"""The verdicts in force here: leases, so stale, absent or damaged bulletins mean base limits.

`state` is read by the decisions while one background thread swaps the snapshot; the snapshot is
immutable and carries its own end, so that even if that thread hangs, no verdict outlives its lease.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egressguard.core.documents import Bulletin
from egressguard.core.hosts import Host
from egressguard.core.leases import Inbox, Lease, Mark, worst
from egressguard.core.verdict import State


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The states in force until `until_s`, when the last of their leases ends."""

    states: Mapping[Host, State]
    until_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A host's state in force went from one value to another."""

    host: Host
    before: State
    after: State


@dataclass(frozen=True, slots=True)
class Told:
    """What one router says of a host; `cause` is empty where it gives none."""

    router: str
    verdict: State
    cause: str


class Signals:
    """Which verdict on which host is in force."""

    def __init__(self, marks: Mapping[str, Mark] | None = None) -> None:
        """`marks` are those of an earlier process."""
        self._inbox: Inbox[Bulletin] = Inbox(marks=marks or {})
        self._snapshot = Snapshot({}, float("-inf"))
        self._fresh: dict[str, Lease[Bulletin]] = {}

    def state(self, host: Host, now_s: float) -> State:
        """The verdict on `host` in force at `now_s`."""
        snapshot = self._snapshot
        return snapshot.states.get(host, State.CLEAN) if now_s < snapshot.until_s else State.CLEAN

    def told(self, host: Host, now_s: float) -> list[Told]:
        """What the routers say of `host` whose word is in force at `now_s`, the worst first."""
        found = []
        for name, lease in self._fresh.items():
            verdict = lease.document.verdicts.get(host)
            if verdict is not None and lease.fresh(now_s):
                found.append(Told(name, verdict, lease.document.causes.get(host, "")))
        return sorted(found, key=lambda told: (-told.verdict.rank, told.router))

    def receive(self, bulletins: Iterable[Bulletin], now_s: float) -> None:
        """Takes what an exchange holds."""
        self._inbox = self._inbox.receive(bulletins, now_s)

    @property
    def marks(self) -> Mapping[str, Mark]:
        """The newest bulletin of each router that was ever seen."""
        return self._inbox.marks

    @property
    def replayed(self) -> int:
        """How many bulletins were older than one seen before, and so changed nothing."""
        return self._inbox.replayed

    def evaluate(self, now_s: float) -> list[Change]:
        """Puts the fresh bulletins in force, and says for which hosts that made a difference.

        Costs next to nothing while no lease came or ended, so it can be called at every poll.
        """
        fresh = {name: lease for name, lease in self._inbox.leases.items() if lease.fresh(now_s)}
        if fresh.keys() == self._fresh.keys() and all(fresh[n] is self._fresh[n] for n in fresh):
            return []
        before, after = self._snapshot.states, worst(fresh, now_s)
        until_s = max((lease.received_s + lease.document.lifetime_s for lease in fresh.values()),
                      default=float("-inf"))
        self._fresh, self._snapshot = fresh, Snapshot(after, until_s)
        return [Change(host, old, new) for host in before.keys() | after.keys()
                if (old := before.get(host, State.CLEAN)) is not (new := after.get(host, State.CLEAN))]

    @property
    def states(self) -> Mapping[Host, State]:
        """The states of the last evaluation."""
        return self._snapshot.states

    @property
    def any_fresh(self) -> bool:
        """Whether any router was heard within its lifetime, at the last evaluation."""
        return bool(self._fresh)
