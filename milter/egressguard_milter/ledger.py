"""Who has sent how much: exact sliding windows, one account per client, in bounded memory.

A message is reserved before it is accepted and stamped when it is, so settled + reserved never exceeds
the limit, however many connections a client opens at once. Times are the caller's monotonic seconds.
"""

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice

from egressguard.core.hosts import Host

FORGET_AT_ONCE = 2  # idle accounts dropped per new one: no sweep ever stops the callbacks
RESERVED_RETRY_S = 10.0  # when a client's own open transactions fill its limit, nobody knows how long


@dataclass(slots=True)
class Account:
    """One client: the times of its accepted messages within the window, and its totals.

    An array and not a list, because it holds 8 bytes per message and no objects for the collector.
    """

    stamps: "array[float]" = field(default_factory=lambda: array("d"))
    reserved: int = 0
    accepted: int = 0
    deferred: int = 0
    touched_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """What a report says about one client: cumulative counts since its account was opened."""

    accepted: int
    deferred: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one request: how much of the limit was in use, when to come back if it was refused.

    `full` means that the ledger has no room for another client.
    """

    granted: bool
    used: int = 0
    retry_s: float = 0.0
    full: bool = False


class Ledger:
    """The accounts of all clients, least recently used first. Safe to call from any thread.

    An account is forgotten one window after its last use, when nothing in it counts any more. When
    `max_clients` accounts are in use, a client without one is refused: nothing is lost by a deferral,
    whereas forgetting an account in use would be quota for whoever owns enough addresses.
    """

    def __init__(self, window_s: float, max_clients: int) -> None:
        self._window_s = window_s
        self._max_clients = max_clients
        self._accounts: OrderedDict[Host, Account] = OrderedDict()
        self._lock = threading.Lock()

    def reserve(self, host: Host, limit: int, now_s: float) -> Entry:
        """Takes one message of `limit` for `host`, or says why not. A refusal costs nothing."""
        with self._lock:
            account = self._account(host, now_s)
            if account is None:
                return Entry(granted=False, retry_s=self._window_s, full=True)
            self._expire(account, now_s)
            used = len(account.stamps) + account.reserved
            if used >= limit:
                account.deferred += 1
                return Entry(granted=False, used=used, retry_s=self._retry_s(account, limit, now_s))
            account.reserved += 1
            return Entry(granted=True, used=used + 1)

    def settle(self, host: Host, now_s: float) -> None:
        """A reserved message was accepted at `now_s`; from here on it counts for one window."""
        with self._lock:
            account = self._accounts[host]  # cannot be forgotten while something is reserved
            self._expire(account, now_s)
            account.reserved -= 1
            account.accepted += 1
            # Threads read the clock before they get the lock: keep the stamps in order.
            account.stamps.append(max(now_s, account.stamps[-1]) if account.stamps else now_s)
            self._touch(host, account, now_s)

    def release(self, host: Host) -> None:
        """A reserved message was not accepted; it never counted."""
        with self._lock:
            self._accounts[host].reserved -= 1

    def recent(self, count: int) -> list[Host]:
        """The `count` most recently active clients."""
        with self._lock:
            return list(islice(reversed(self._accounts), count))

    def totals(self, host: Host) -> Totals:
        """The totals of `host`; zero when it has no account."""
        with self._lock:
            account = self._accounts.get(host)
            return Totals(account.accepted, account.deferred) if account else Totals(0, 0)

    def __len__(self) -> int:
        return len(self._accounts)

    def _account(self, host: Host, now_s: float) -> Account | None:
        account = self._accounts.get(host)
        if account is None:
            self._forget_idle(now_s)
            if len(self._accounts) >= self._max_clients:
                return None
            account = self._accounts[host] = Account()
        self._touch(host, account, now_s)
        return account

    def _touch(self, host: Host, account: Account, now_s: float) -> None:
        account.touched_s = max(now_s, account.touched_s)
        self._accounts.move_to_end(host)

    def _forget_idle(self, now_s: float) -> None:
        for _ in range(FORGET_AT_ONCE):
            host, account = next(iter(self._accounts.items()), (None, None))
            if host is None or account is None or now_s - account.touched_s < self._window_s:
                return
            if account.reserved:
                self._touch(host, account, now_s)  # a transaction that is open is in use
            else:
                del self._accounts[host]

    def _expire(self, account: Account, now_s: float) -> None:
        del account.stamps[:bisect_right(account.stamps, now_s - self._window_s)]

    def _retry_s(self, account: Account, limit: int, now_s: float) -> float:
        """Seconds until enough stamps have left the window for one more message under `limit`."""
        if limit <= 0:
            return self._window_s
        leaving = len(account.stamps) + account.reserved - limit
        if leaving >= len(account.stamps):
            return min(RESERVED_RETRY_S, self._window_s)
        return account.stamps[leaving] + self._window_s - now_s
