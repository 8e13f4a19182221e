"""The ledger of one relay among several: what passes has passed the local accounts and the shared budget.

The local accounts know what this relay let through, whatever happens; the server knows what all of them did.
While it is away each relay allows its part of every limit, the limit divided by their number, and tells the
server afterwards. Connections and refused recipients are each relay's own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress

from egressguard_milter.account import TICKS_PER_S, Amounts, Kind
from egressguard_milter.budgets import Away, Budget, Budgets, Counted, Over, Taken, Unknown, Wanted
from egressguard_milter.ledger import Cap, Claim, Hold, Ledger, Refusal
from egressguard_milter.records import Memory

SHARED_KINDS = (Kind.MESSAGES, Kind.RECIPIENTS)
MOST_KEYS = 100_000
MOST_AT_ONCE, BATCH = 1024, 32  # budgets that a server which forgot is told of in one step, and in one call
TRIES = 3
NOTHING_MORE: Amounts = (0, 0, 0, 0)
AWAY_RETRY_S = 60.0


class SharedLedger(Ledger):
    """See `Ledger`; `relays` of them share each budget."""

    def __init__(self, horizon_s: float, capacity: int, memory: Memory | None, budgets: Budgets,
                 relays: int) -> None:
        super().__init__(horizon_s, capacity, memory)
        self._budgets, self._relays = budgets, relays
        self._life = ""
        # In which life this relay has said what it counted of a budget; absent: in none.
        self._said: OrderedDict[Counted, str] = OrderedDict()
        self._unsaid: dict[Counted, list[tuple[float, int]]] = {}

    def reserve(self, claims: Sequence[Claim], now_s: float) -> Hold | Refusal:
        """Takes one message with one recipient of every claim, or of none, here and on the server."""
        hold = super().reserve(claims, now_s)
        if isinstance(hold, Refusal):
            return hold
        refusal = self._take(hold, hold.claims, (0, 1, 1, 0), now_s)
        if refusal is not None:
            super().release(hold, now_s)
            return refusal
        return hold

    def extend(self, hold: Hold, now_s: float) -> Refusal | None:
        """Takes one recipient more for the message of `hold`, here and on the server."""
        refusal = super().extend(hold, now_s)
        if refusal is None:
            refusal = self._take(hold, hold.claims, (0, 0, 1, 0), now_s)
            if refusal is not None:
                super().shorten(hold, now_s)
        return refusal

    def settle(self, hold: Hold, recipients: int, now_s: float) -> None:
        """The message was accepted, and counts from now on, there as well as here."""
        if hold.messages and not (hold.taken and all(taken.life == self._life for taken in hold.taken)):
            with self._lock:  # the server does not know of this one, or has forgotten it
                for budget in _budgets(hold.claims):
                    amount = recipients if budget.kind is Kind.RECIPIENTS else 1
                    self._unsaid.setdefault(budget.counted, []).append((now_s, amount))
        super().settle(hold, recipients, now_s)
        hold.taken.clear()

    def release(self, hold: Hold, now_s: float) -> None:
        """What `hold` reserved is given back, there as well as here."""
        taken, hold.taken = hold.taken, []
        super().release(hold, now_s)
        with suppress(Away):
            self._budgets.back(taken)

    def forgive(self, key: str, now_s: float) -> bool:
        """Drops everything that counts against `key`, there as well as here; whether there was any."""
        known = [counted for counted in self._said if counted.name == key]
        with suppress(Away):
            self._budgets.forgive([counted.place for counted in known])
        for counted in known:
            self._unsaid.pop(counted, None)
        return super().forgive(key, now_s) or bool(known)

    @property
    def fault(self) -> str:
        """Says when the server is away."""
        return "" if self._budgets.there else (
            f"budgets are not shared: the server is away, this relay allows 1/{self._relays} of each limit")

    def tend(self, now_s: float) -> None:
        """Tries a server that was away again, and tells it what it does not know; for another thread than the
        callbacks'.
        """
        self._budgets.tend(now_s)
        with suppress(Away):
            answer = self._budgets.take(self._life, [])
            if isinstance(answer, Unknown):
                self._life = answer.life
            behind = [c for c, life in list(self._said.items()) if life != self._life or c in self._unsaid]
            for start in range(0, min(len(behind), MOST_AT_ONCE), BATCH):
                self._asked([Budget(c, 0) for c in behind[start:start + BATCH]], NOTHING_MORE, now_s)

    def _take(self, hold: Hold, claims: Sequence[Claim], amounts: Amounts, now_s: float
              ) -> Refusal | None:
        budgets = [b for b in _budgets(claims) if amounts[b.kind]]
        if not budgets:
            return None
        try:
            answer = self._asked(budgets, amounts, now_s)
        except Away:
            return self._within_part(claims, amounts, now_s)
        if isinstance(answer, Over):
            budget = budgets[answer.place]
            cap = Cap(budget.kind, budget.most, budget.window_s)
            return Refusal(budget.counted.name, cap, budget.most, answer.used, answer.retry_s)
        hold.taken += answer
        return None

    def _asked(self, budgets: Sequence[Budget], amounts: Amounts, now_s: float) -> list[Taken] | Over:
        """Takes from the server, and first says what it does not know: each thing once, whoever asks.

        Raises Away; then nothing is taken for said.
        """
        for _ in range(TRIES):
            life = self._life
            before = [(b.counted, self._to_say(b.counted, life, now_s)) for b in budgets]
            try:
                answer = self._budgets.take(life, [Wanted(b, amounts[b.kind], said) for b, (_, said)
                                                   in zip(budgets, before, strict=True)])
            except Away:
                self._not_said(before, now_s)
                raise
            if not isinstance(answer, Unknown):
                return answer
            self._life = answer.life  # what was said is not in this one: another life, everything again
        raise Away

    def _to_say(self, counted: Counted, life: str, now_s: float) -> list[tuple[float, int]]:
        """What this relay has let through of a budget and the server does not know: seconds ago, how much.

        It is taken for said from now on.
        """
        with self._lock:
            known, unsaid = self._said.pop(counted, None) == life, self._unsaid.pop(counted, [])
            self._said[counted] = life
            if len(self._said) > MOST_KEYS:
                self._said.popitem(last=False)
            if known:
                return [(now_s - at_s, n) for at_s, n in unsaid if 0 <= now_s - at_s < counted.window_s]
            account = self._places.peek(counted.name)
            return [(max(0.0, now_s - tick / TICKS_PER_S), amounts[counted.kind])
                    for tick, amounts in (account.stamps() if account else ())
                    if amounts[counted.kind] and tick > (now_s - counted.window_s) * TICKS_PER_S]

    def _not_said(self, before: Iterable[tuple[Counted, list[tuple[float, int]]]], now_s: float) -> None:
        with self._lock:
            for counted, said in before:
                self._unsaid.setdefault(counted, []).extend((now_s - age_s, n) for age_s, n in said)

    def _within_part(self, claims: Sequence[Claim], amounts: Amounts, now_s: float) -> Refusal | None:
        """Whether this relay's part of every limit holds what it has let through and reserved."""
        for budget in _budgets(claims):
            part = max(1, budget.most // self._relays)
            cap = Cap(budget.kind, part, budget.window_s)
            [used] = self.usage(budget.counted.name, [cap], now_s)  # what is asked for is reserved already
            if amounts[budget.kind] and used > part:
                return Refusal(budget.counted.name, cap, part, used - amounts[budget.kind], AWAY_RETRY_S)
        return None


def _budgets(claims: Sequence[Claim]) -> list[Budget]:
    return [Budget(Counted(claim.key, cap.kind, cap.window_s), cap.most)
            for claim in claims for cap in claim.caps if cap.kind in SHARED_KINDS]

