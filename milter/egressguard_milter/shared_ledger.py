"""The ledger of one relay among several: what passes has passed the local accounts and the shared budget.

The local accounts know what this relay let through, whatever happens; the server knows what all of them did.
What the server may not know of a key, or not as it is, this relay says before anything else, whole and in
place of what it said before; only a relay that has nothing left to say counts as here. While the server is
away `alone.py` says what may pass. Connections and refused recipients are each relay's own.
"""

import threading
import time
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from egressguard_milter.account import TICKS_PER_S, Account, Amounts, Kind, Pool
from egressguard_milter.alone import SURELY, Alone
from egressguard_milter.budgets import Apart, Away, Budgets, Counted, Over, Taken, Unknown, Wanted
from egressguard_milter.ledger import Cap, Claim, Hold, Ledger, Refusal
from egressguard_milter.records import Memory

SHARED_KINDS = (Kind.MESSAGES, Kind.RECIPIENTS)
BATCH, SAYING_S = 16, 0.1  # keys in one call; how long one step may take for all that is to be said
TRIES = 3
AWAY_RETRY_S = 60.0
NOTHING = Account("", Pool.KNOWN)


class Budget(NamedTuple):
    """What is counted, how much of it is allowed, and this relay's account; None: it shares another key's."""

    counted: Counted
    most: int
    account: Account | None


class Place(NamedTuple):
    """What was taken on the server, when, and how often this relay had said what it had by then."""

    taken: Taken
    at_s: float
    sayings: int


class SharedLedger(Ledger):
    """See `Ledger`; `relays` of them share each budget."""

    def __init__(self, horizon_s: float, capacity: int, memory: Memory | None, budgets: Budgets,
                 relays: int) -> None:
        super().__init__(horizon_s, capacity, memory)
        self._budgets, self._relays, self._alone = budgets, relays, Alone(relays)
        self._windows_s: frozenset[float] = frozenset()
        self._life = ""
        self._unsaid: set[str] = set()  # keys of which the server may not know what this relay had
        self._sayings = 0
        self._speaking = threading.Lock()

    def reserve(self, claims: Sequence[Claim], now_s: float) -> Hold | Refusal:
        """Takes one message with one recipient of every claim, or of none, here and on the server."""
        hold = super().reserve(claims, now_s)
        if isinstance(hold, Refusal):
            return hold
        refusal = self._take(hold, (0, 1, 1, 0), now_s)
        if refusal is not None:
            super().release(hold, now_s)
            return refusal
        return hold

    def extend(self, hold: Hold, now_s: float) -> Refusal | None:
        """Takes one recipient more for the message of `hold`, here and on the server."""
        refusal = super().extend(hold, now_s)
        if refusal is None:
            refusal = self._take(hold, (0, 0, 1, 0), now_s)
            if refusal is not None:
                super().shorten(hold, now_s)
        return refusal

    def settle(self, hold: Hold, recipients: int, now_s: float) -> None:
        """The message was accepted, and counts from now on, there as well as here."""
        known = not hold.messages or (recipients == hold.recipients and self._stands(hold, now_s))
        keys = _keys(hold)
        super().settle(hold, recipients, now_s)
        hold.taken = ()
        if not known:
            self._must_say(keys)

    def release(self, hold: Hold, now_s: float) -> None:
        """What `hold` reserved is given back, there as well as here."""
        known, taken = not hold.messages or self._stands(hold, now_s), [p.taken for p in hold.taken]
        keys = _keys(hold)
        super().release(hold, now_s)
        hold.taken = ()
        try:
            known = known and (not taken or self._budgets.back(taken))
        except Away:
            known = False
        if not known:
            self._must_say(keys)

    def forgive(self, key: str, now_s: float) -> bool:
        """Drops everything that counts against `key`, there as well as here; whether there was any."""
        found = super().forgive(key, now_s)
        with suppress(Away):
            found |= self._budgets.forgive([counted.place for counted in self._all_of(key)])
        return found

    def resize(self, horizon_s: float, capacity: int, windows_s: Iterable[float] = ()) -> None:
        """Another longest window, another number of accounts, and these windows from now on."""
        super().resize(horizon_s, capacity)
        self._count_in(windows_s)

    @property
    def fault(self) -> str:
        """Says when budgets are not shared."""
        if not self._budgets.there:
            return (f"budgets are not shared: {self._budgets.trouble}; each client may go on as it did here, "
                    f"later with 1/{self._relays} of its limit")
        return "" if not self._budgets.missing else (
            f"budgets are not shared: {self._budgets.missing} of {self._relays} relays have not been heard "
            "since the server began; `relays` says how many there are")

    def tend(self, now_s: float) -> None:
        """Tries a server that was away again, and tells it what it does not know; for another thread than the
        callbacks'.
        """
        self._budgets.tend(now_s)
        with suppress(Away):
            self._say({}, (), now_s)
            if self._unsaid or not self._budgets.joined:
                self._say_all(now_s)
                self._say({}, (), now_s)  # which says that nothing is left to say

    def _say_all(self, now_s: float) -> None:
        until_s = time.monotonic() + SAYING_S
        while self._unsaid and time.monotonic() < until_s:
            with self._lock:
                keys = list(islice(self._unsaid, BATCH))
            self._say({}, keys, now_s)

    def _take(self, hold: Hold, amounts: Amounts, now_s: float) -> Refusal | None:
        budgets = _budgets(hold, amounts)
        if not budgets:
            return None
        self._count_in(budget.counted.window_s for budget in budgets)
        try:
            answer = self._asked(budgets, amounts, now_s)
            if isinstance(answer, Apart):
                apart = [b for b in budgets if b.counted.window_s > answer.age_s]
                refusal = self._by_itself(apart, answer.life, float("inf"), now_s)
                if refusal is not None:
                    return refusal
                answer = self._asked(budgets, amounts, now_s, anyhow=True)
        except Away:
            return self._cut_off(hold, budgets, now_s)
        if isinstance(answer, Apart):
            return self._cut_off(hold, budgets, now_s)
        if isinstance(answer, Over):
            budget = budgets[answer.place]
            return _refusal(budget, budget.most, answer.used, answer.retry_s)
        hold.taken = [*hold.taken, *(Place(taken, now_s, self._sayings) for taken in answer)]
        return None

    def _asked(self, budgets: Sequence[Budget], amounts: Amounts, now_s: float, *, anyhow: bool = False
               ) -> list[Taken] | Over | Apart:
        wanted = {b.counted: Wanted(b.counted, b.most, amounts[b.counted.kind]) for b in budgets}
        return self._say(wanted, {b.counted.name for b in budgets}, now_s, anyhow=anyhow)

    def _say(self, wanted: dict[Counted, Wanted], keys: Iterable[str], now_s: float, *, anyhow: bool = False
             ) -> list[Taken] | Over | Apart:
        """Takes from the server, and first says of `keys` what it may not know. Raises Away."""
        for _ in range(TRIES):
            with self._speaking:  # or who says that nothing is left could overtake who says it
                said, asked, here = self._sayable(wanted, keys, now_s)
                try:
                    answer = self._budgets.take(asked, here, anyhow=anyhow)
                except Away:
                    self._must_say(said)
                    raise
                if not isinstance(answer, Unknown):
                    self._sayings += bool(said)
                    return answer[:len(wanted)] if isinstance(answer, list) else answer
                self._must_say(said)
        raise Away

    def _sayable(self, wanted: dict[Counted, Wanted], keys: Iterable[str], now_s: float
                 ) -> tuple[list[str], list[Wanted], int]:
        """What of `keys` is to be said; that with what is wanted; until when this relay is here."""
        with self._lock:
            if self._life != self._budgets.life:  # it knows nothing of what was said in another
                self._life = self._budgets.life
                self._unsaid.update(self._places.keys())
            said = [key for key in keys if key in self._unsaid]
            self._unsaid.difference_update(said)
            asked = dict(wanted)
            for key in said:
                asked |= self._statement(key, asked, now_s)
            here = 0 if self._unsaid_left() else self._budgets.here()
            return said, list(asked.values()), here

    def _unsaid_left(self) -> bool:
        return bool(self._unsaid)

    def _statement(self, key: str, wanted: dict[Counted, Wanted], now_s: float
                   ) -> dict[Counted, Wanted]:
        """All that counts of `key` at this relay, reservations included, in every window."""
        account, statement = self._places.peek(key) or NOTHING, {}
        stamps = account.stamps()
        for counted in self._all_of(key):
            kind, since = counted.kind, (now_s - counted.window_s) * TICKS_PER_S
            said = [(max(0.0, now_s - tick / TICKS_PER_S), amounts[kind]) for tick, amounts in stamps
                    if amounts[kind] and tick > since]
            asked = wanted.get(counted, Wanted(counted))
            if held := account.reserved[kind] - asked.amount:  # what is asked for is reserved already
                said.append((0.0, held))
            statement[counted] = asked._replace(said=said)
        return statement

    def _all_of(self, key: str) -> list[Counted]:
        return [Counted(key, kind, window_s) for kind in SHARED_KINDS for window_s in self._windows_s]

    def _count_in(self, windows_s: Iterable[float]) -> None:
        """Whoever counts in another window for the first time has not said what it had in it."""
        new = self._windows_s.union(windows_s)
        if new != self._windows_s:
            with self._lock:
                self._windows_s = new
                self._unsaid.update(self._places.keys())

    def _must_say(self, keys: Iterable[str]) -> None:
        with self._lock:
            self._unsaid.update(keys)

    def _stands(self, hold: Hold, now_s: float) -> bool:
        """Whether the server has what `hold` reserved where it was taken, and a moment ago."""
        shortest_s = min(self._windows_s, default=0.0)
        return bool(hold.taken) and all(
            place.sayings == self._sayings and now_s - place.at_s < shortest_s / 64 for place in hold.taken)

    def _cut_off(self, hold: Hold, budgets: Sequence[Budget], now_s: float) -> Refusal | None:
        """The server is away: nothing until it knows that this relay is, then what may pass alone."""
        self._must_say(_keys(hold))  # first, or it could be said meanwhile that nothing is left to say
        from_s = self._budgets.alone_from_s
        if now_s < from_s:
            return _refusal(budgets[0], 0, 0, from_s - now_s)
        return self._by_itself(budgets, from_s, from_s, now_s)

    def _by_itself(self, budgets: Sequence[Budget], era: Hashable, began_s: float, now_s: float
                   ) -> Refusal | None:
        """Whether this relay may let through alone what is reserved already."""
        with self._lock:
            self._alone.enter(era, began_s)
            for budget in budgets:
                (_, kind, window_s), account = budget.counted, budget.account
                if account is None:
                    return _refusal(budget, 0, 0, AWAY_RETRY_S)
                had = account.used(kind, window_s * SURELY, now_s)
                most = self._alone.most(budget.counted, budget.most, window_s, had, now_s)
                used = account.used(kind, window_s, now_s) + account.reserved[kind]
                if used > most:
                    return _refusal(budget, most, used - 1, AWAY_RETRY_S)
        return None


def _budgets(hold: Hold, amounts: Amounts) -> list[Budget]:
    return [Budget(Counted(claim.key, kind, window_s), most, account if account.key == claim.key else None)
            for claim, account in zip(hold.claims, hold.accounts, strict=True)
            for kind, most, window_s in claim.caps if kind in SHARED_KINDS and amounts[kind]]


def _keys(hold: Hold) -> list[str]:
    """Those with an account of their own: what a key has used in a shared one, nobody can say."""
    return [claim.key for claim, account in zip(hold.claims, hold.accounts, strict=False)
            if account.key == claim.key]


def _refusal(budget: Budget, most: int, used: int, retry_s: float) -> Refusal:
    key, kind, window_s = budget.counted
    return Refusal(key, Cap(kind, most, window_s), most, used, retry_s)
