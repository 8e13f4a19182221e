"""A signal is a lease at the receiver: fresh documents count, stale ones never happened.

The receiver measures a document's lifetime on its own monotonic clock from the moment it first saw that
document. Reading the same one again does not prolong it; an older one changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from egressguard.core.documents import Bulletin, Document
from egressguard.core.hosts import Host
from egressguard.core.verdict import State

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class Lease(Generic[D]):
    """A document and when it was first seen here (the receiver's monotonic seconds)."""

    document: D
    received_s: float

    def age_s(self, now_s: float) -> float:
        """Seconds since the document was first seen here."""
        return now_s - self.received_s

    def fresh(self, now_s: float) -> bool:
        """Whether the document may still be used."""
        return 0 <= self.age_s(now_s) < self.document.lifetime_s


Leases = Mapping[str, Lease[D]]


def receive(leases: Leases[D], documents: Iterable[D], now_s: float) -> dict[str, Lease[D]]:
    """`leases` with each origin's newest document; leases of long silent origins are dropped."""
    kept = {name: lease for name, lease in leases.items()
            if lease.age_s(now_s) < 2 * lease.document.lifetime_s}
    for document in documents:
        old = leases.get(document.origin.name)
        if old is None or _newer(document, old.document):
            kept[document.origin.name] = Lease(document, now_s)
        elif document.origin.name not in kept:
            kept[document.origin.name] = old  # still there to be read: keep its true age
    return kept


def _newer(one: Document, other: Document) -> bool:
    """A number of the same epoch is compared; another epoch is a restarted, hence newer, process."""
    if one.origin.epoch != other.origin.epoch:
        return True
    return one.origin.sequence > other.origin.sequence


def worst(leases: Leases[Bulletin], now_s: float) -> dict[Host, State]:
    """The state of every host in any fresh bulletin; where routers disagree, the worst counts."""
    states: dict[Host, State] = {}
    for lease in leases.values():
        if lease.fresh(now_s):
            for host, state in lease.document.verdicts.items():
                states[host] = max(state, states.get(host, State.CLEAN), key=lambda s: s.rank)
    return states
