"""What routers and relays leave for each other: bulletins (verdicts) and reports, as canonical JSON.

Both are whole snapshots, so a lost one is replaced by the next and nothing has to be replayed. Both name
their origin, its epoch (a number that grows with each start of its process) and a sequence number, so that
the receiver can tell newer from older, and carry a relative lifetime that the receiver measures on its own
clock: no two hosts' clocks are compared.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier

BULLETIN, REPORT = KINDS = ("bulletin", "report")
MAX_ENTRIES = 100_000
MAX_NAME_LENGTH = 255
MAX_LIFETIME_S = 86400.0
MAX_LIMITS = 32  # of a relay, that a report may count deferrals by


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wrote a document: its name, the epoch of its process, and the document's number in it."""

    name: str
    epoch: int
    sequence: int

    @property
    def place(self) -> tuple[int, int]:
        """Its place among this origin's documents: a larger one is newer."""
        return self.epoch, self.sequence


@dataclass(frozen=True, slots=True)
class Bulletin:
    """A router's verdicts on all hosts that are not clean; valid for `lifetime_s` after receipt."""

    origin: Origin
    lifetime_s: float
    verdicts: Mapping[Host, State]


@dataclass(frozen=True, slots=True)
class Client:
    """What a relay saw of and does with one client: cumulative counts since the relay's epoch began.

    `accepted` and `deferred` are messages; `deferred_by` counts deferrals per limit, of whatever kind.
    `senders` and `domains` are estimates of how many different envelope senders and recipient domains there
    were; `declared_bytes` is what the client announced with SIZE.
    """

    tier: Tier
    limit: int
    accepted: int
    deferred: int
    deferred_by: Mapping[str, int] = field(default_factory=dict)
    recipients: int = 0
    refused_recipients: int = 0
    senders: int = 0
    domains: int = 0
    declared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A relay's clients; valid for `lifetime_s` after receipt."""

    origin: Origin
    lifetime_s: float
    clients: Mapping[Host, Client]


class Document(Protocol):
    """What both documents have in common."""

    @property
    def origin(self) -> Origin:
        """Who wrote it."""

    @property
    def lifetime_s(self) -> float:
        """For how long after receipt it may be used."""


def encode_bulletin(bulletin: Bulletin) -> str:
    """`bulletin` as one line of JSON, equal bulletins as equal text."""
    return _encode(bulletin, {host: str(state) for host, state in bulletin.verdicts.items()})


def decode_bulletin(text: str) -> Bulletin:
    """The bulletin in `text`. Raises ValueError for anything that is not exactly one."""
    origin, lifetime_s, entries = _decode(text, State)
    return Bulletin(origin, lifetime_s, entries)


def encode_report(report: Report) -> str:
    """`report` as one line of JSON, equal reports as equal text."""
    return _encode(report, {host: [str(c.tier), c.limit, c.accepted, c.deferred, dict(c.deferred_by),
                                   c.recipients, c.refused_recipients, c.senders, c.domains, c.declared_bytes]
                            for host, c in report.clients.items()})


def decode_report(text: str) -> Report:
    """The report in `text`. Raises ValueError for anything that is not exactly one."""
    origin, lifetime_s, entries = _decode(text, _client)
    return Report(origin, lifetime_s, entries)


def _client(value: Any) -> Client:
    tier, limit, accepted, deferred, *more = value
    deferred_by, *volumes = more or [{}, 0, 0, 0, 0, 0]  # a relay of the first version knows no more
    counts = (limit, accepted, deferred, *volumes, *deferred_by.values())
    if not all(type(n) is int and 0 <= n < 2**63 for n in counts):
        raise ValueError("a count must be a whole number, not negative")
    if len(volumes) != 5 or len(deferred_by) > MAX_LIMITS:
        raise ValueError("no such client")
    by_limit = {_name(name): count for name, count in deferred_by.items()}
    return Client(Tier(tier), limit, accepted, deferred, by_limit, *volumes)


def _encode(document: Document, entries: Mapping[Host, Any]) -> str:
    o = document.origin
    body = {"name": o.name, "epoch": o.epoch, "sequence": o.sequence,
            "lifetime_s": document.lifetime_s, "entries": entries}
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


V = TypeVar("V")


def _decode(text: str, value: Callable[[Any], V]) -> tuple[Origin, float, dict[Host, V]]:
    try:
        body = json.loads(text)
        origin = Origin(_name(body["name"]), body["epoch"], body["sequence"])
        lifetime_s, entries = body["lifetime_s"], body["entries"]
        if not all(type(n) is int and 0 <= n < 2**63 for n in origin.place):
            raise ValueError("epoch and sequence must be whole numbers, not negative")
        if type(lifetime_s) not in (int, float) or not 0 < lifetime_s <= MAX_LIFETIME_S \
                or not math.isfinite(lifetime_s):
            raise ValueError(f"lifetime_s must be above 0 and at most {MAX_LIFETIME_S}")
        if len(entries) > MAX_ENTRIES or set(body) != {"name", "epoch", "sequence", "lifetime_s", "entries"}:
            raise ValueError("too many entries, or unknown keys")
        return origin, float(lifetime_s), {Host(_name(k)): value(v) for k, v in entries.items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no such document: {error!r}") from error


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        raise ValueError(f"a name must be 1 to {MAX_NAME_LENGTH} printable characters")
    return value
