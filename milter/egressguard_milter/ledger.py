"""Who has used how much: exact under concurrency, in bounded memory, written down before it is answered.

Something is reserved before it is accepted and stamped when it is, so stamped + reserved never exceeds a
limit, however many connections ask at once. Times are the caller's monotonic seconds.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from egressguard_milter.account import Account, Amounts, Kind, Pool
from egressguard_milter.places import Places
from egressguard_milter.records import Forgetful, Memory, Record

# An enumeration is slower to ask.
CONNECTIONS, MESSAGES, RECIPIENTS = int(Kind.CONNECTIONS), int(Kind.MESSAGES), int(Kind.RECIPIENTS)
HELD_RETRY_S = 10.0  # when open transactions fill the limit, nobody knows for how long
MESSAGE = (0, 1, 1, 1)  # it adds no refused recipient, but at their limit nothing passes
ENDLESS = 1 << 62


class Cap(NamedTuple):
    """One limit over time: at most `most` of `kind` in any `window_s` seconds."""

    kind: Kind
    most: int
    window_s: float


class Claim(NamedTuple):
    """A key that pays for something, and its limits.

    `neighbours` is the key that it shares when there is no room for its own account.
    """

    key: str
    caps: tuple[Cap, ...]
    pool: Pool = Pool.STRANGER
    neighbours: str = ""


class Refusal(NamedTuple):
    """Which limit of which key is used up, by how much, and when to come back.

    `cap` is None when too many connections of the key are open.
    """

    key: str
    cap: Cap | None
    most: int
    used: int
    retry_s: float


@dataclass(slots=True, eq=False)
class Hold:
    """What one transaction or connection has reserved, and where."""

    accounts: Sequence[Account]
    claims: Sequence[Claim] = ()
    messages: int = 0
    recipients: int = 0
    open: int = 0
    taken: Sequence[Any] = ()  # where else it is counted (shared_ledger.py)


class Ledger:
    """The accounts of all keys. Safe to call from any thread."""

    def __init__(self, horizon_s: float, capacity: int, memory: Memory | None = None) -> None:
        self._memory: Memory = memory or Forgetful()
        self._places = Places(horizon_s, capacity, self._memory)
        self._lock = threading.Lock()

    def connect(self, claims: Sequence[Claim], most_open: int | None, now_s: float) -> Hold | Refusal:
        """Opens a connection that counts for every claim at once; the first claim is the client's."""
        with self._lock:
            accounts = self._accounts(claims, now_s)
            first = accounts[0]
            refusal = self._first_refusal(claims, accounts, (1, 0, 0, 0), now_s)
            if refusal is None and most_open is not None and first.open >= most_open:
                refusal = Refusal(first.key, None, most_open, first.open, HELD_RETRY_S)
            if refusal is not None:
                self._let_go(accounts, now_s)
                return refusal
            self._stamp(accounts, (1, 0, 0, 0), claims, now_s)
            first.open += 1
            self._let_go(accounts[1:], now_s)
            return Hold(accounts[:1], open=1)

    def reserve(self, claims: Sequence[Claim], now_s: float) -> Hold | Refusal:
        """Takes one message with one recipient of every claim, or of none."""
        with self._lock:
            accounts = self._accounts(claims, now_s)
            refusal = self._first_refusal(claims, accounts, MESSAGE, now_s)
            if refusal is not None:
                self._let_go(accounts, now_s)
                return refusal
            for account in accounts:
                reserved = account.reserved
                reserved[MESSAGES] += 1
                reserved[RECIPIENTS] += 1
                account.spare -= 1
            return Hold(accounts, claims, 1, 1)

    def extend(self, hold: Hold, now_s: float) -> Refusal | None:
        """Takes one recipient more for the message of `hold`."""
        with self._lock:
            refusal = self._first_refusal(hold.claims, hold.accounts, (0, 0, 1, 0), now_s)
            if refusal is None:
                hold.recipients += 1
                for account in hold.accounts:
                    account.reserved[RECIPIENTS] += 1
                    account.spare -= 1
            return refusal

    def shorten(self, hold: Hold, now_s: float) -> None:
        """Gives back the recipient that was taken last."""
        with self._lock:
            hold.recipients -= 1
            for account in hold.accounts:
                account.reserved[RECIPIENTS] -= 1

    def settle(self, hold: Hold, recipients: int, now_s: float) -> None:
        """The message was accepted for so many recipients, and counts. A second time does nothing."""
        with self._lock:
            if hold.messages:
                self._stamp(hold.accounts, (0, 1, recipients, 0), hold.claims, now_s)
                if recipients > hold.recipients:  # than were asked for
                    for account in hold.accounts:
                        account.spare = 0
            self._release(hold, now_s)

    def release(self, hold: Hold, now_s: float) -> None:
        """What `hold` reserved is given back. A second time does nothing."""
        with self._lock:
            self._release(hold, now_s)

    def refused_recipient(self, claim: Claim, now_s: float) -> Refusal | None:
        """The MTA refused a recipient of this client; the answer to one more, if that would be too many."""
        with self._lock:
            accounts = self._accounts((claim,), now_s)
            self._stamp(accounts, (0, 0, 0, 1), (claim,), now_s)
            accounts[0].spare = 0
            refusal = self._first_refusal((claim,), accounts, (0, 0, 0, 1), now_s)
            self._let_go(accounts, now_s)
            return refusal

    def usage(self, key: str, caps: Iterable[Cap], now_s: float) -> list[int]:
        """What counts against each cap now, reservations included."""
        with self._lock:
            account = self._places.peek(key)
            return [_used(account, cap, now_s) if account else 0 for cap in caps]

    def payer(self, claim: Claim) -> str:
        """The key whose account pays for `claim` now: its own, or one that it shares for want of room."""
        with self._lock:
            return self._places.payer(claim.key, claim.pool, claim.neighbours)

    def open_connections(self, key: str) -> int:
        """How many connections `key` has open."""
        with self._lock:
            account = self._places.peek(key)
            return account.open if account else 0

    def forgive(self, key: str, now_s: float) -> bool:
        """Drops everything that counts against `key`, but nothing that it holds; whether there was any."""
        with self._lock:
            self._memory.write([Record(key, Pool.KNOWN, None, now_s)])
            return self._places.forgive(key)

    @property
    def fault(self) -> str:
        """What keeps it from being exact, in words; a ledger on its own has nothing."""
        return ""

    def tend(self, now_s: float) -> None:
        """Looks after what is elsewhere; a ledger on its own has nothing."""

    def sweep(self, now_s: float) -> None:
        """Forgets some of what no longer counts; call it often, each call is short."""
        with self._lock:
            self._places.sweep(now_s)

    def resize(self, horizon_s: float, capacity: int, windows_s: Iterable[float] = ()) -> None:
        """Another longest window, another number of accounts, and these windows from now on."""
        with self._lock:
            self._places.resize(horizon_s, capacity)

    def remember(self, records: Iterable[Record], now_s: float) -> None:
        """Takes over what an earlier process has written down: each key at once, as there may be many."""
        found: dict[str, tuple[Pool, list[tuple[Amounts, float]]]] = {}
        for key, pool, amounts, at_s in records:
            if amounts is None:
                found.pop(key, None)
                self._places.forgive(key)
            elif key in found:
                found[key][1].append((amounts, at_s))
            else:
                found[key] = pool, [(amounts, at_s)]
        with self._lock:
            for key, (pool, stamps) in found.items():
                self._places.restore(key, pool, stamps, now_s)

    @property
    def census(self) -> dict[str, int]:
        """How many accounts each pool has."""
        return self._places.census()

    def __len__(self) -> int:
        return len(self._places)

    def _accounts(self, claims: Sequence[Claim], now_s: float) -> list[Account]:
        take = self._places.take
        return [take(key, pool, neighbours, now_s) for key, _, pool, neighbours in claims]

    def _let_go(self, accounts: Iterable[Account], now_s: float) -> None:
        for account in accounts:
            self._places.put_back(account, now_s)

    def _first_refusal(self, claims: Sequence[Claim], accounts: Sequence[Account], amounts: Amounts,
                       now_s: float) -> Refusal | None:
        """The first limit that `amounts` more would exceed.

        An account with something to spare is not asked: most clients are far below their limits.
        """
        for claim, account in zip(claims, accounts, strict=True):
            if account.spare > 0 and account.spare_of is claim and not amounts[CONNECTIONS]:
                continue
            self._places.prune(account, now_s)
            refusal = _refusal(claim, account, amounts, now_s)
            if refusal is not None:
                return refusal
            account.spare, account.spare_of = _spare(claim, account), claim
        return None

    def _stamp(self, accounts: Sequence[Account], amounts: Amounts, claims: Sequence[Claim],
               now_s: float) -> None:
        """Stamps and writes only what some limit asks for: an unlimited key costs neither time nor room."""
        records = []
        for account, claim in zip(accounts, claims, strict=True):
            for kind, _, _ in claim.caps:
                if amounts[kind]:
                    account.stamp(amounts, now_s)
                    records.append(Record(account.key, account.pool, amounts, now_s))
                    break
        if records:
            self._memory.write(records)

    def _release(self, hold: Hold, now_s: float) -> None:
        messages, recipients, opened = hold.messages, hold.recipients, hold.open
        for account in hold.accounts:
            reserved = account.reserved
            reserved[MESSAGES] -= messages
            reserved[RECIPIENTS] -= recipients
            account.open -= opened
            self._places.put_back(account, now_s)
        hold.accounts, hold.messages, hold.recipients, hold.open = (), 0, 0, 0


def _used(account: Account, cap: Cap, now_s: float) -> int:
    return account.used(cap.kind, cap.window_s, now_s) + account.reserved[cap.kind]


def _refusal(claim: Claim, account: Account, amounts: Amounts, now_s: float) -> Refusal | None:
    """The first limit of `claim` that `amounts` more would exceed; a kind with amount 0 is not asked."""
    for cap in claim.caps:
        amount = amounts[cap.kind]
        if not amount or account.total(cap.kind) + amount <= cap.most:
            continue
        if (used := _used(account, cap, now_s)) + amount > cap.most:
            return Refusal(account.key, cap, cap.most, used, _retry_s(account, cap, used, amount, now_s))
    return None


def _spare(claim: Claim, account: Account) -> int:
    """How many messages, recipients and refused recipients more, together, surely pass: as many as if nothing
    that is remembered ever left a window.
    """
    return min((cap.most - account.total(cap.kind) for cap in claim.caps if cap.kind != CONNECTIONS),
               default=ENDLESS)


def _retry_s(account: Account, cap: Cap, used: int, amount: int, now_s: float) -> float:
    """Seconds until enough has left the window for `amount` more."""
    if cap.most < amount:
        return cap.window_s
    leaving = used + amount - cap.most
    if leaving > account.used(cap.kind, cap.window_s, now_s):
        return min(HELD_RETRY_S, cap.window_s)
    return max(0.0, account.free_at_s(cap.kind, cap.window_s, now_s, leaving) - now_s)
