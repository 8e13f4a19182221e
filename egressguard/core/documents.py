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
from typing import Any, NamedTuple, Protocol, TypeVar

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier

BULLETIN, REPORT = KINDS = ("bulletin", "report")
MAX_ENTRIES = 100_000  # of a bulletin
MAX_CLIENTS = 1000  # of a report: reading it holds up a round, and making it a relay's callbacks
MAX_COUNT = 1 << 40  # that is believed at once, so that no sum is beyond what SQLite can keep
MAX_LENGTH = 16 << 20  # of a document, in characters
MAX_NAME_LENGTH = 255
MAX_LIFETIME_S = 86400.0
MOST_LATEST = 8  # destinations that a router names of a host
MAX_LIMITS = 32  # of a relay, that a report may count deferrals by
LEAST_VOLUMES, MOST_VOLUMES = 5, 8  # that an earlier relay has told of a client, and that are known here
MAX_FIELDS = 32  # of a client: a later relay may say more of it than is known here


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


class Tried(NamedTuple):
    """What a router has counted of a host since its epoch began: attempts, how many of them went to a
    destination that was new to the host, and the `latest` of those destinations, the newest last.
    """

    attempts: int
    new: int = 0
    latest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bulletin:
    """A router's verdicts on all hosts that are not clean; valid for `lifetime_s` after receipt.

    `causes` says what a host's attempts look like, where that is known; `tried` is for the other routers.
    """

    origin: Origin
    lifetime_s: float
    verdicts: Mapping[Host, State]
    causes: Mapping[Host, str] = field(default_factory=dict)
    tried: Mapping[Host, Tried] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Client:
    """What a relay saw of and does with one client: cumulative counts since the relay's epoch began.

    `accepted` and `deferred` are messages; `deferred_by` counts deferrals per limit, of whatever kind.
    `senders` and `domains` are estimates of how many different envelope senders and recipient domains there
    were; `declared_bytes` is what the client announced with SIZE. `connections` are those that were let in;
    `most_open` at once and `most_messages` in one are of the last minute or two.
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
    connections: int = 0
    most_open: int = 0
    most_messages: int = 0


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
    more = {"causes": {host: str(cause) for host, cause in bulletin.causes.items()},
            "tried": dict(bulletin.tried)}
    return _encode(bulletin, {host: str(state) for host, state in bulletin.verdicts.items()},
                   {name: value for name, value in more.items() if value})


def decode_bulletin(text: str) -> Bulletin:
    """The bulletin in `text`. Raises ValueError for anything that is not exactly one."""
    origin, lifetime_s, entries, more = _decode(text, State, {"causes": _name, "tried": _tried})
    return Bulletin(origin, lifetime_s, entries, **more)


def encode_report(report: Report) -> str:
    """`report` as one line of JSON, equal reports as equal text."""
    return _encode(report, {host: [str(c.tier), c.limit, c.accepted, c.deferred, dict(c.deferred_by),
                                   c.recipients, c.refused_recipients, c.senders, c.domains, c.declared_bytes,
                                   c.connections, c.most_open, c.most_messages]
                            for host, c in report.clients.items()})


def decode_report(text: str) -> Report:
    """The report in `text`. Raises ValueError for anything that is not exactly one."""
    origin, lifetime_s, entries, _ = _decode(text, _client, {}, MAX_CLIENTS)
    return Report(origin, lifetime_s, entries)


def _client(value: Any) -> Client:
    tier, limit, accepted, deferred, *more = value
    deferred_by, *volumes = more or [{}, 0, 0, 0, 0, 0]  # a relay of the first version knows no more
    counts = (limit, accepted, deferred, *volumes, *deferred_by.values())
    if not all(type(n) is int and 0 <= n < 2**63 for n in counts):
        raise ValueError("a count must be a whole number, not negative")
    if not LEAST_VOLUMES <= len(volumes) <= MAX_FIELDS or len(deferred_by) > MAX_LIMITS:
        raise ValueError("no such client")
    by_limit = {_name(name): count for name, count in deferred_by.items()}
    return Client(Tier(tier), limit, accepted, deferred, by_limit, *volumes[:MOST_VOLUMES])


def _tried(value: Any) -> Tried:
    attempts, new, latest = value
    if not all(type(n) is int and 0 <= n < 2**63 for n in (attempts, new)) or len(latest) > MOST_LATEST:
        raise ValueError("no such count")
    return Tried(attempts, new, tuple(map(_name, latest)))


def _encode(document: Document, entries: Mapping[Host, Any], more: Mapping[str, Any] | None = None) -> str:
    o = document.origin
    body = {"name": o.name, "epoch": o.epoch, "sequence": o.sequence,
            "lifetime_s": document.lifetime_s, "entries": entries, **(more or {})}
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


V = TypeVar("V")


def worst(verdicts: Mapping[Host, State]) -> Mapping[Host, State]:
    """As many as a bulletin may name: the worst, if there are more."""
    if len(verdicts) <= MAX_ENTRIES:
        return verdicts
    return dict(sorted(verdicts.items(), key=lambda item: -item[1].rank)[:MAX_ENTRIES])


def _decode(text: str, value: Callable[[Any], V], optional: Mapping[str, Callable[[Any], Any]],
            most: int | None = None) -> tuple[Origin, float, dict[Host, V], dict[str, dict[Host, Any]]]:
    """The document in `text`, of at `most` so many entries, and its `optional` parts: by name, how their
    values are read.
    """
    try:
        body = json.loads(text)
        origin = Origin(_name(body["name"]), body["epoch"], body["sequence"])
        lifetime_s, entries = body["lifetime_s"], body["entries"]
        if not all(type(n) is int and 0 <= n < 2**63 for n in origin.place):
            raise ValueError("epoch and sequence must be whole numbers, not negative")
        if type(lifetime_s) not in (int, float) or not 0 < lifetime_s <= MAX_LIFETIME_S \
                or not math.isfinite(lifetime_s):
            raise ValueError(f"lifetime_s must be above 0 and at most {MAX_LIFETIME_S}")
        if set(body) - set(optional) != {"name", "epoch", "sequence", "lifetime_s", "entries"}:
            raise ValueError("unknown keys")
        more = {name: _by_host(body.get(name, {}), read) for name, read in optional.items()}
        return origin, float(lifetime_s), _by_host(entries, value, most), more
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no such document: {error!r}") from error


def _by_host(entries: Any, value: Callable[[Any], V], most: int | None = None) -> dict[Host, V]:
    if len(entries) > (most or MAX_ENTRIES):
        raise ValueError("too many entries")
    return {Host(_name(k)): value(v) for k, v in entries.items()}


def _name(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        raise ValueError(f"a name must be 1 to {MAX_NAME_LENGTH} printable characters")
    return value
