"""A signal is a lease at the receiver: fresh documents count, stale ones never happened.

The receiver measures a document's lifetime on its own monotonic clock from the moment it first saw that
document. Reading the same one again does not prolong it; an older one changes nothing, whoever plays it back
and however long its origin has been silent: the newest place of each origin is remembered as a mark, also
over a restart of the receiver.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from egressguard.core.documents import Bulletin, Document
from egressguard.core.hosts import Host
from egressguard.core.verdict import State

D = TypeVar("D", bound=Document)
MAX_MARKS = 10_000
LONG_AGO_S = float("-inf")


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


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest document of an origin that was ever seen here, and when that was."""

    place: tuple[int, int]
    received_s: float


Leases = Mapping[str, Lease[D]]


@dataclass(frozen=True, slots=True)
class Inbox(Generic[D]):
    """What a receiver has of one kind of document; `replayed` counts the older ones that it was shown."""

    leases: Leases[D] = field(default_factory=dict)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    replayed: int = 0

    def receive(self, documents: Iterable[D], now_s: float) -> "Inbox[D]":
        """With each origin's newest document; what has lapsed and is not there any more is dropped."""
        kept = {name: lease for name, lease in self.leases.items() if lease.fresh(now_s)}
        marks, replayed = dict(self.marks), self.replayed
        for document in documents:
            name, place, mark = document.origin.name, document.origin.place, marks.get(document.origin.name)
            if mark is not None and place < mark.place:
                replayed += 1
                continue
            if mark is None or place > mark.place:
                marks.pop(name, None)  # so that the newest stand last
                mark = marks[name] = Mark(place, now_s)
            old = self.leases.get(name)
            # The same one again keeps its age and its content, which its origin writes but once.
            same = old is not None and old.document.origin.place == place
            kept[name] = old if old and same else Lease(document, mark.received_s)
        return Inbox(kept, dict(islice(marks.items(), max(0, len(marks) - MAX_MARKS), None)), replayed)


def marks_to_json(marks: Mapping[str, Mark], boot: str) -> dict[str, Any]:
    """`marks` as JSON; their times mean something within this boot only."""
    return {"boot": boot, "marks": {name: [*mark.place, mark.received_s] for name, mark in marks.items()}}


def marks_from_json(found: Any, boot: str) -> dict[str, Mark]:
    """What `marks_to_json` made; those of another boot were seen long ago. Empty for anything else."""
    try:
        here = found["boot"] == boot
        return {str(name): Mark((int(epoch), int(sequence)), float(at_s) if here else LONG_AGO_S)
                for name, (epoch, sequence, at_s) in islice(found["marks"].items(), MAX_MARKS)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def worst(leases: Leases[Bulletin], now_s: float) -> dict[Host, State]:
    """The state of every host in any fresh bulletin; where routers disagree, the worst counts."""
    states: dict[Host, State] = {}
    for lease in leases.values():
        if lease.fresh(now_s):
            for host, state in lease.document.verdicts.items():
                states[host] = max(state, states.get(host, State.CLEAN), key=lambda s: s.rank)
    return states
