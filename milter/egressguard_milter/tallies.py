"""What was seen of each client, for the judge: counts, and how many different senders and domains.

Everything here is bounded: a client's senders are a bitmap, and only the most recently active clients are
remembered. Nothing of it decides anything, so forgetting costs evidence and never a limit.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from egressguard.core.hosts import Address, Host
from egressguard_milter.matching import address_of_host

BITS = 1024  # counts up to some 5,000 different values, within about 5 %
MAX_CLIENTS = 4096
MAX_LIMITS = 100  # told apart in the metrics


@dataclass(slots=True)
class Peak:
    """The most that there was of something, in the last whole minute and in the one that goes on.

    A report that is lost costs nothing so, and one of a quiet time tells nothing of a busy one.
    """

    minute: float = 0.0
    now: int = 0
    before: int = 0

    def saw(self, count: int, now_s: float) -> None:
        """There were so many at `now_s`."""
        if (minute := now_s // 60) != self.minute:
            self.before = self.now if minute == self.minute + 1 else 0
            self.minute, self.now = minute, count
        elif count > self.now:
            self.now = count

    def most(self, now_s: float) -> int:
        """The most by `now_s`; another thread asks than counts."""
        minutes = now_s // 60 - self.minute
        return 0 if minutes > 1 else self.now if minutes == 1 else max(self.now, self.before)


@dataclass(slots=True)
class Tally:
    """One client since it was first seen."""

    accepted: int = 0
    recipients: int = 0
    declared_bytes: int = 0
    refused_recipients: int = 0
    deferred: dict[str, int] = field(default_factory=dict)
    senders: int = 0
    domains: int = 0
    connections: int = 0
    open: int = 0
    most_open: Peak = field(default_factory=Peak)
    most_messages: Peak = field(default_factory=Peak)


class Tallies:
    """The tallies by client. Safe to call from any thread."""

    def __init__(self) -> None:
        self._tallies: OrderedDict[Host, Tally] = OrderedDict()
        self._lock = threading.Lock()
        self._met: OrderedDict[Host, tuple[Address, str]] = OrderedDict()
        self._by_limit: dict[str, int] = {}
        self.accepted_total = self.deferred_total = 0

    def met(self, host: Host, address: Address, name: str) -> None:
        """A host has connected from `address`, as `name`: what its rules are found by."""
        with self._lock:
            self._met[host] = (address, name)
            self._met.move_to_end(host)
            if len(self._met) > MAX_CLIENTS:
                self._met.popitem(last=False)

    def last_met(self, host: Host) -> tuple[Address | None, str]:
        """The address and the name that a host had last; without a meeting its only, or first, address."""
        with self._lock:
            return self._met.get(host) or (address_of_host(host), "")

    def connected(self, host: Host, now_s: float) -> None:
        """A client was let in."""
        with self._lock:
            tally = self._of(host)
            tally.connections += 1
            tally.open += 1
            tally.most_open.saw(tally.open, now_s)

    def gone(self, host: Host, now_s: float) -> None:
        """It has left; what was forgotten meanwhile has none open."""
        with self._lock:
            tally = self._tallies.get(host)
            if tally is not None and tally.open:
                tally.most_open.saw(tally.open, now_s)
                tally.open -= 1

    def accepted(self, host: Host, sender: str, recipients: int, domains: int, declared_bytes: int,
                 messages: int, now_s: float) -> None:
        """A message was accepted for so many recipients; `domains` has the `bit` of each domain, and
        `messages` have come in this connection.
        """
        with self._lock:
            self.accepted_total += 1
            tally = self._of(host)
            tally.accepted += 1
            tally.recipients += recipients
            tally.declared_bytes += declared_bytes
            tally.senders |= bit(sender)
            tally.domains |= domains
            tally.most_messages.saw(messages, now_s)

    def deferred(self, host: Host, limit: str) -> None:
        """A client was told to come back."""
        with self._lock:
            self.deferred_total += 1
            name = limit if limit in self._by_limit or len(self._by_limit) < MAX_LIMITS else "other"
            self._by_limit[name] = self._by_limit.get(name, 0) + 1
            tally = self._of(host)
            tally.deferred[limit] = tally.deferred.get(limit, 0) + 1

    def by_limit(self) -> dict[str, int]:
        """How often a client was told to come back, by limit."""
        with self._lock:
            return dict(self._by_limit)

    def refused_recipient(self, host: Host) -> None:
        """The MTA refused a recipient."""
        with self._lock:
            self._of(host).refused_recipients += 1

    def recent(self, count: int) -> list[Host]:
        """The `count` most recently active clients, the last one first."""
        with self._lock:
            newest = reversed(self._tallies)
            return [host for host, _ in zip(newest, range(count), strict=False)]

    def of(self, host: Host) -> Tally:
        """A client's tally; an empty one when it is not remembered."""
        with self._lock:
            return self._tallies.get(host) or Tally()

    def _of(self, host: Host) -> Tally:
        tally = self._tallies.get(host)
        if tally is None:
            tally = self._tallies[host] = Tally()
            if len(self._tallies) > MAX_CLIENTS:
                self._tallies.popitem(last=False)
        else:
            self._tallies.move_to_end(host)
        return tally


def bit(value: str) -> int:
    """Which bit of a bitmap stands for `value`."""
    # Python's hash of text is keyed anew in every process: nobody can choose values that share a bit.
    return 1 << (hash(value) % BITS)


def distinct(bitmap: int) -> int:
    """About how many different values are in a bitmap (linear counting)."""
    unset = BITS - bitmap.bit_count()
    return round(-BITS * math.log(max(unset, 1) / BITS))
