"""The sliding window is exact: against a naive model, under concurrency, and in bounded memory."""

import threading
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard_milter.account import PRECISION_BITS, TICKS_PER_S, Account, Kind, Pool, newest_s, thaw
from egressguard_milter.ledger import HELD_RETRY_S, Cap, Claim, Hold, Ledger, Refusal
from tests.promises import promise

A, B, C = "192.0.2.1", "192.0.2.2", "2001:db8::/64"
WINDOW_S, LONG_S = 100.0, 1000.0


def claim(key: str, messages: int, recipients: int = 10**6, pool: Pool = Pool.STRANGER,
          neighbours: str = "") -> Claim:
    return Claim(key, (Cap(Kind.MESSAGES, messages, WINDOW_S), Cap(Kind.RECIPIENTS, recipients, WINDOW_S)),
                 pool, neighbours)


def reserve(ledger: Ledger, wanted: Claim, now_s: float) -> Hold | None:
    answer = ledger.reserve([wanted], now_s)
    return answer if isinstance(answer, Hold) else None


def refusal(ledger: Ledger, wanted: Claim, now_s: float) -> Refusal:
    answer = ledger.reserve([wanted], now_s)
    assert isinstance(answer, Refusal)
    return answer


def accept(ledger: Ledger, wanted: Claim, now_s: float, recipients: int = 1) -> bool:
    hold = reserve(ledger, wanted, now_s)
    if hold is None:
        return False
    for _ in range(recipients - 1):
        ledger.extend(hold, now_s)
    ledger.settle(hold, hold.recipients, now_s)
    return True


@dataclass
class Model:
    """Everything ever accepted, counted anew for each question."""

    settled: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    holds: dict[str, list[Hold]] = field(default_factory=dict)

    def used(self, key: str, now_s: float) -> tuple[int, int]:
        live = [n for t, n in self.settled.get(key, []) if now_s - WINDOW_S < t]
        held = self.holds.get(key, [])
        return len(live) + len(held), sum(live) + sum(h.recipients for h in held)


steps = st.lists(st.tuples(
    st.integers(0, 60),  # seconds since the last step
    st.sampled_from([A, B, C]),
    st.sampled_from(["reserve", "extend", "settle", "release"]),
    st.integers(0, 5),  # the limits in force, which verdicts change at any time
    st.integers(0, 8),
), max_size=200)


@given(steps)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_window_agrees_with_a_naive_count(sequence: list[tuple[int, str, str, int, int]]) -> None:
    ledger, model, now_s = Ledger(WINDOW_S, 100), Model(), 0.0
    for elapsed_s, key, action, messages, recipients in sequence:
        now_s += elapsed_s
        holds, wanted = model.holds.setdefault(key, []), claim(key, messages, recipients)
        used = model.used(key, now_s)
        if action == "reserve":
            hold = reserve(ledger, wanted, now_s)
            assert (hold is not None) is (used[0] < messages and used[1] < recipients)
            holds += [hold] if hold else []
        elif holds and action == "extend":
            most = holds[0].claims[0].caps[1].most
            assert (ledger.extend(holds[0], now_s) is None) is (used[1] < most)
        elif holds and action == "settle":
            model.settled.setdefault(key, []).append((now_s, holds[0].recipients))
            ledger.settle(holds[0], holds.pop(0).recipients, now_s)
        elif holds:
            ledger.release(holds.pop(0), now_s)


@given(steps)
def test_whoever_comes_back_when_told_is_accepted_and_not_before(
        sequence: list[tuple[int, str, str, int, int]]) -> None:
    ledger, now_s = Ledger(WINDOW_S, 100), 0.0
    for elapsed_s, _, _, limit, _ in sequence:
        now_s += elapsed_s
        wanted = claim(A, limit)
        if not accept(ledger, wanted, now_s) and limit:
            retry_s = refusal(ledger, wanted, now_s).retry_s
            assert not accept(ledger, wanted, now_s + retry_s - 1)
            hold = reserve(ledger, wanted, now_s + retry_s)
            assert hold
            now_s += retry_s
            ledger.release(hold, now_s)


@given(st.lists(st.floats(0.0, 40.0), max_size=400), st.integers(1, 200), st.sampled_from([50.0, 300.0, 3000.0]))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
def test_no_window_ever_holds_more_than_the_limit_and_no_place_is_lost_for_long(
        gaps: list[float], limit: int, window_s: float) -> None:
    """At any times, also where many stamps are merged: the law of account.py."""
    account, accepted, now_s = Account(A, Pool.STRANGER), list[float](), 0.0
    for gap in gaps:
        now_s += gap / 4
        account.prune(3000.0, now_s)
        if account.used(Kind.MESSAGES, window_s, now_s) < limit:
            account.stamp((0, 1, 1, 0), now_s)
            accepted.append(now_s)
        slack_s = window_s / (1 << PRECISION_BITS) + 2 / TICKS_PER_S
        assert sum(now_s - window_s < t for t in accepted) <= limit
        assert account.used(Kind.MESSAGES, window_s, now_s) \
            <= sum(now_s - window_s - slack_s < t for t in accepted)


def test_a_stamp_between_two_ticks_counts_for_its_whole_window() -> None:
    for millisecond in range(0, 200, 7):
        account, at_s = Account(A, Pool.STRANGER), 50 + millisecond / 1000
        account.stamp((0, 1, 1, 0), at_s)
        assert account.used(Kind.MESSAGES, 10.0, at_s + 9.999) == 1
        assert account.used(Kind.MESSAGES, 10.0, at_s + 10.0 + 1 / TICKS_PER_S) == 0


def test_places_of_very_many_messages_come_back_in_time_too() -> None:
    account, window_s = Account(A, Pool.STRANGER), 600.0
    times = [n * 0.4 for n in range(4000)]
    for now_s in times:
        account.stamp((0, 1, 1, 0), now_s)
        used = account.used(Kind.MESSAGES, window_s, now_s)
        slack_s = window_s / (1 << PRECISION_BITS) + 2 / TICKS_PER_S
        exact, latest = (sum(now_s - window_s - slack < t <= now_s for t in times) for slack in (0, slack_s))
        assert exact <= used <= latest
    assert len(account.ticks) < 1500


def test_however_many_stamps_there_are_an_account_stays_small() -> None:
    account = Account(A, Pool.STRANGER)
    for second in range(200_000):
        account.stamp((0, 1, 1, 0), second / 2)
        account.prune(86400.0, second / 2)
    assert len(account.ticks) < 2000
    assert account.used(Kind.MESSAGES, 86400.0, 100_000.0) >= 2 * 86400


stamps = st.lists(st.tuples(st.floats(0, 5000), st.tuples(*[st.integers(0, 1000)] * 4)), max_size=100)


@given(stamps, st.sampled_from(list(Pool)))
def test_an_account_is_the_same_after_it_was_frozen(entries: list[tuple[float, tuple[int, int, int, int]]],
                                                    pool: Pool) -> None:
    account = Account(A, pool)
    for at_s, amounts in sorted(entries):
        account.stamp(amounts, at_s)
    again = thaw(A, account.freeze())
    assert (again.pool, again.ticks) == (account.pool, account.ticks)
    for kind in Kind:
        for window_s in (1.0, 700.0, 6000.0):
            assert again.used(kind, window_s, 5000.0) == account.used(kind, window_s, 5000.0)
    if entries:
        assert newest_s(account.freeze()) == account.ticks[-1] / TICKS_PER_S


def test_a_machine_that_has_been_up_for_years_still_counts() -> None:
    ledger, now_s = Ledger(LONG_S, 10_000), 40 * 366 * 86400.0
    for n in range(3000):  # far more than rest as objects
        assert accept(ledger, claim(f"192.0.{n // 250}.{n % 250}", 1), now_s)
    ledger.sweep(now_s)
    assert not any(accept(ledger, claim(f"192.0.{n // 250}.{n % 250}", 1), now_s + 1) for n in range(3000))


def test_several_windows_hold_on_one_key() -> None:
    ledger = Ledger(LONG_S, 100)
    wanted = Claim(A, (Cap(Kind.MESSAGES, 2, WINDOW_S), Cap(Kind.MESSAGES, 5, LONG_S)))
    accepted = [t for t in range(0, 1000, 10) if accept(ledger, wanted, t)]
    assert accepted == [0, 10, 100, 110, 200]
    assert refusal(ledger, wanted, 999).cap == Cap(Kind.MESSAGES, 5, LONG_S)
    assert accept(ledger, wanted, 1000)


def test_open_transactions_that_fill_the_limit_mean_come_back_soon() -> None:
    ledger = Ledger(WINDOW_S, 100)
    assert reserve(ledger, claim(A, 1), 0)
    assert refusal(ledger, claim(A, 1), 0).retry_s == HELD_RETRY_S


def test_a_refused_attempt_costs_nothing() -> None:
    ledger = Ledger(WINDOW_S, 100)
    assert accept(ledger, claim(A, 1), 0)
    assert not any(accept(ledger, claim(A, 1), second) for second in range(int(WINDOW_S)))
    assert accept(ledger, claim(A, 1), WINDOW_S)


def test_what_is_settled_or_released_twice_counts_once() -> None:
    ledger = Ledger(WINDOW_S, 100)
    hold = reserve(ledger, claim(A, 2), 0)
    assert hold
    for _ in range(3):
        ledger.settle(hold, 1, 0)
        ledger.release(hold, 0)
    assert [accept(ledger, claim(A, 2), 0) for _ in range(2)] == [True, False]


ACTS = {"mail": 8, "rcpt": 4, "accept": 4, "refused": 1, "accept more": 1, "abort": 1, "forgive": 0.2, "shorten": 0.5}


def narrow(key: str, messages: int, recipients: int, refused: int) -> Claim:
    most = {Kind.MESSAGES: messages, Kind.RECIPIENTS: recipients, Kind.REFUSED: refused}
    return Claim(key, tuple(Cap(kind, n, WINDOW_S) for kind, n in most.items()))


GROUP = narrow("group", 9, 12, 100)
PAYERS = [(narrow(A, 4, 7, 3), GROUP), (narrow(A, 2, 3, 2),), (narrow(C, 5, 6, 1), GROUP)]


def test_an_account_that_is_not_asked_for_a_while_gives_the_same_answers() -> None:
    """A ledger in which an account may have some to spare, beside one where every limit is asked each time."""
    for seed in range(100):
        chance, now_s = Random(seed), 0.0
        quick, thorough = Ledger(WINDOW_S, 2), Thorough(WINDOW_S, 2)
        holds: list[tuple[Hold, Hold]] = []
        for act in chance.choices(list(ACTS), list(ACTS.values()), k=100):
            now_s += chance.choice([0.0, 0.0, 0.3, 5.0])
            claims = chance.choice(PAYERS)
            mine = holds[-chance.randint(1, min(len(holds), 3))] if holds else (None, None)
            one, other = (answered(ledger, hold, act, claims, now_s)
                          for ledger, hold in zip((quick, thorough), mine, strict=True))
            if isinstance(one, Hold) and isinstance(other, Hold):
                holds.append((one, other))
            else:
                assert one == other, f"seed {seed}"


class Thorough(Ledger):
    def _first_refusal(self, *question: Any) -> Refusal | None:
        for account in question[1]:
            account.spare = 0
        return super()._first_refusal(*question)


def answered(ledger: Ledger, hold: Hold | None, act: str, claims: tuple[Claim, ...], now_s: float
             ) -> Hold | Refusal | bool | None:
    if act == "mail":
        return ledger.reserve(claims, now_s)
    if act == "refused":
        return ledger.refused_recipient(claims[0], now_s)
    if act == "forgive":
        return ledger.forgive(claims[0].key, now_s)
    return on_its_way(ledger, hold, act, now_s) if hold and hold.messages else None


def on_its_way(ledger: Ledger, hold: Hold, act: str, now_s: float) -> Refusal | None:
    """What may become of a message that was reserved."""
    if act == "rcpt":
        return ledger.extend(hold, now_s)
    if act == "shorten" and hold.recipients > 1:
        ledger.shorten(hold, now_s)
    elif act == "abort":
        ledger.release(hold, now_s)
    elif act != "shorten":
        ledger.settle(hold, hold.recipients + 3 * (act == "accept more"), now_s)
    return None


def test_of_many_threads_exactly_as_many_as_the_limit_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread is made to wait between looking and taking, where only a lock keeps the others out."""
    def slowly(*question: Any) -> Refusal | None:
        answer = looked(*question)
        time.sleep(0.0005)
        return answer
    looked = Ledger._first_refusal
    monkeypatch.setattr(Ledger, "_first_refusal", slowly)
    ledger, limit, barrier = Ledger(WINDOW_S, 100), 40, threading.Barrier(20)
    granted: list[bool] = []

    def client() -> None:
        barrier.wait()
        granted.extend(accept(ledger, claim(A, limit), 0.0) for _ in range(10))

    threads = [threading.Thread(target=client) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == limit
    promise(9, "reservations that pass a limit of 40 from threads which are held up between looking and taking",
            sum(granted), limit, f"{len(threads)} threads, {len(granted)} attempts")


def test_a_shared_budget_and_a_clients_own_are_both_paid_or_neither() -> None:
    ledger = Ledger(WINDOW_S, 100)
    shared = claim("group web", 3, pool=Pool.KNOWN)
    for key, expected in ((A, 2), (B, 1), (C, 0)):
        granted = 0
        for _ in range(5):
            answer = ledger.reserve([claim(key, 2), shared], 0)
            if isinstance(answer, Hold):
                ledger.settle(answer, 1, 0)
                granted += 1
        assert granted == expected
    assert ledger.usage(C, claim(C, 2).caps, 0) == [0, 0]


def test_threads_whose_clocks_were_read_in_another_order_do_not_break_the_window() -> None:
    ledger = Ledger(WINDOW_S, 2)
    assert all(accept(ledger, claim(A, 2), now_s) for now_s in (5.0, 4.9))
    assert not accept(ledger, claim(A, 2), 5.0 + WINDOW_S - 0.01)
    assert accept(ledger, claim(A, 2), 5.0 + WINDOW_S)


def test_what_is_forgiven_counts_no_more_but_what_is_held_does() -> None:
    ledger = Ledger(WINDOW_S, 100)
    assert all(accept(ledger, claim(A, 3), 0) for _ in range(3))
    assert ledger.forgive(A, 0)
    assert not ledger.forgive(A, 0)
    assert reserve(ledger, claim(A, 3), 0)
    assert [accept(ledger, claim(A, 3), 0) for _ in range(3)] == [True, True, False]
    assert ledger.forgive(A, 0)
    assert ledger.usage(A, claim(A, 3).caps, 0) == [1, 1]
