"""The sliding window is exact: against a naive model, under concurrency, and in bounded memory."""

import threading
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.hosts import Host
from egressguard_milter.ledger import RESERVED_RETRY_S, Ledger

A, B, C = Host("192.0.2.1"), Host("192.0.2.2"), Host("2001:db8::/64")
WINDOW_S = 100.0


@dataclass
class Model:
    """Everything ever accepted, counted anew for each question."""

    settled: dict[Host, list[float]] = field(default_factory=dict)
    reserved: dict[Host, int] = field(default_factory=dict)

    def used(self, host: Host, now_s: float) -> int:
        live = sum(now_s - WINDOW_S < t <= now_s for t in self.settled.get(host, []))
        return live + self.reserved.get(host, 0)


steps = st.lists(st.tuples(
    st.integers(0, 60),  # seconds since the last step
    st.sampled_from([A, B, C]),
    st.sampled_from(["reserve", "settle", "release"]),
    st.integers(0, 5),  # the limit in force, which verdicts change at any time
), max_size=200)


@given(steps)
def test_the_window_agrees_with_a_naive_count(
        sequence: list[tuple[int, Host, str, int]]) -> None:
    ledger, model, now_s = Ledger(WINDOW_S, 100), Model(), 0.0
    for elapsed_s, host, action, limit in sequence:
        now_s += elapsed_s
        reserved = model.reserved.get(host, 0)
        if action == "reserve":
            free = model.used(host, now_s) < limit
            assert ledger.reserve(host, limit, now_s).granted is free
            model.reserved[host] = reserved + free
        elif reserved and action == "settle":
            ledger.settle(host, now_s)
            model.reserved[host] = reserved - 1
            model.settled.setdefault(host, []).append(now_s)
        elif reserved:
            ledger.release(host)
            model.reserved[host] = reserved - 1


@given(steps)
def test_whoever_comes_back_when_told_is_accepted_and_not_before(
        sequence: list[tuple[int, Host, str, int]]) -> None:
    ledger, now_s = Ledger(WINDOW_S, 100), 0.0
    for elapsed_s, _, _, limit in sequence:
        now_s += elapsed_s
        entry = ledger.reserve(A, limit, now_s)
        if entry.granted:
            ledger.settle(A, now_s)
        elif limit:
            assert not ledger.reserve(A, limit, now_s + entry.retry_s - 1).granted
            assert ledger.reserve(A, limit, now_s + entry.retry_s).granted
            ledger.release(A)
            now_s += entry.retry_s


def test_open_transactions_that_fill_the_limit_mean_come_back_soon() -> None:
    ledger = Ledger(WINDOW_S, 100)
    assert ledger.reserve(A, 1, 0).granted
    assert ledger.reserve(A, 1, 0).retry_s == RESERVED_RETRY_S


def test_a_refused_attempt_costs_nothing() -> None:
    ledger = Ledger(WINDOW_S, 100)
    ledger.reserve(A, 1, 0)
    ledger.settle(A, 0)
    for second in range(int(WINDOW_S)):
        assert not ledger.reserve(A, 1, second).granted
    assert ledger.reserve(A, 1, WINDOW_S).granted
    assert ledger.totals(A).deferred == WINDOW_S


def test_of_many_threads_exactly_as_many_as_the_limit_pass() -> None:
    ledger, limit, barrier = Ledger(WINDOW_S, 100), 40, threading.Barrier(20)
    granted: list[bool] = []

    def client() -> None:
        barrier.wait()
        for _ in range(50):
            entry = ledger.reserve(A, limit, 0.0)
            granted.append(entry.granted)
            if entry.granted:
                ledger.settle(A, 0.0)

    threads = [threading.Thread(target=client) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == limit
    assert (ledger.totals(A).accepted, ledger.totals(A).deferred) == (limit, 1000 - limit)


def test_a_full_ledger_defers_strangers_and_serves_those_it_knows() -> None:
    ledger = Ledger(WINDOW_S, 2)
    for host in (A, B):
        assert ledger.reserve(host, 5, 0).granted
        ledger.settle(host, 0)
    assert ledger.reserve(C, 5, 1).full
    assert ledger.reserve(A, 5, 1).granted
    assert len(ledger) == 2


def test_idle_clients_are_forgotten_so_a_full_ledger_recovers_by_itself() -> None:
    ledger = Ledger(WINDOW_S, 2)
    for host in (A, B):
        ledger.reserve(host, 5, 0)
        ledger.settle(host, 0)
    assert ledger.reserve(C, 5, WINDOW_S).granted
    assert len(ledger) == 1


def test_a_client_with_an_open_transaction_is_never_forgotten() -> None:
    ledger = Ledger(WINDOW_S, 2)
    ledger.reserve(A, 5, 0)
    for second in range(1, 1000):
        ledger.reserve(Host(f"198.51.100.{second % 250}"), 0, 10.0 * second)
    ledger.settle(A, 10_000)
    assert ledger.totals(A).accepted == 1


def test_threads_whose_clocks_were_read_in_another_order_do_not_break_the_window() -> None:
    ledger = Ledger(WINDOW_S, 2)
    for now_s in (5.0, 4.9):
        ledger.reserve(A, 2, now_s)
        ledger.settle(A, now_s)
    assert not ledger.reserve(A, 2, 5.0 + WINDOW_S - 0.01).granted
    assert ledger.reserve(A, 2, 5.0 + WINDOW_S).granted
