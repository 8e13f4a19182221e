"""A flood of strangers neither makes the memory grow, nor wins a limit, nor takes one from anybody known."""

import gc
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard_milter.account import Pool
from egressguard_milter.ledger import Hold, Ledger
from egressguard_milter.places import SHARD_SIZE
from egressguard_milter.policy import Base, ClientRule, Policy
from tests.promises import promise
from tests.relay.parts import Parts, mail, parts, send
from tests.relay.test_ledger import WINDOW_S, A, accept, claim, reserve

ZE_FILTER_BYTES = 12_700  # per client, measured on its own binary


def relay(**more: object) -> Parts:
    return parts(Policy(limits=Base(messages=4, window_s=100.0), max_clients=32, **more))  # type: ignore[arg-type]


def flood(relay: Parts, prefix: str, count: int, now_s: float = 0.0) -> int:
    """Messages accepted from `count` addresses of different /64s, each trying twice."""
    accepted = 0
    for n in range(count):
        session = relay.session(f"{prefix}:{n:x}::1", now_s=now_s)
        accepted += send(session, 2, now_s)
        session.close(now_s)
    return accepted


def test_rotating_addresses_wins_one_limit_for_the_network_once_there_is_no_room() -> None:
    site = relay()
    own = 32 * 2
    assert flood(site, "2001:db8:bad", 1000) == own + 4
    assert len(site.ledger) == 33


def test_a_new_client_of_another_network_is_served_during_a_flood() -> None:
    site = relay()
    flood(site, "2001:db8:bad", 1000)
    assert send(site.session("192.0.2.1"), 10) == 4
    assert send(site.session("2001:db8:600d::1"), 10) == 4


def test_a_client_with_an_account_or_in_the_policy_keeps_its_place_in_the_worst_flood() -> None:
    site = relay(client=(ClientRule(match=("2001:db8:bad:ffff::/64",)),))
    assert send(site.session("192.0.2.1"), 2) == 2
    for n in range(200):
        flood(site, f"2001:db8:{n + 1:x}", 8)
    assert site.ledger.census["overflow"] <= 18
    assert send(site.session("192.0.2.1"), 10) == 2
    assert send(site.session("2001:db8:bad:ffff::1"), 10) == 4
    assert send(site.session("198.51.100.1"), 10) == 0, "a stranger shares one limit with all others"


def test_when_there_is_room_again_everyone_has_a_limit_of_its_own() -> None:
    site = relay()
    flood(site, "2001:db8:bad", 1000)
    later_s = 150.0
    for _ in range(100):
        later_s += 10.0
        site.ledger.sweep(later_s)
    assert len(site.ledger) == 0
    assert send(site.session("2001:db8:bad:999::1", now_s=later_s), 10, later_s) == 4


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans(), st.booleans()), max_size=120))
def test_no_client_passes_more_than_its_limit_by_moving_between_shared_and_own_accounts(
        sequence: list[tuple[int, int, bool, bool]]) -> None:
    """Two places, six clients in two networks: who has an own account changes all the time, also in mid-message."""
    ledger, sent, now_s = Ledger(WINDOW_S, 2), dict[int, list[float]](), 0.0
    open_messages: list[tuple[int, Hold]] = []
    for elapsed_s, client, sweep, end in sequence:
        now_s += elapsed_s
        if sweep:
            ledger.sweep(now_s)
        hold = ledger.reserve([claim(f"192.0.2.{client}", 3, neighbours=f"network {client % 2}")], now_s)
        if isinstance(hold, Hold):
            open_messages.append((client, hold))
        if end:
            for sender, open_hold in open_messages:
                ledger.settle(open_hold, 1, now_s)
                times = sent.setdefault(sender, [])
                times.append(now_s)
                assert sum(now_s - WINDOW_S < t for t in times) <= 3
            open_messages.clear()


def test_what_is_on_its_way_in_a_shared_account_is_no_second_limit_when_there_is_room_again() -> None:
    site = relay()
    flood(site, "2001:db8:bad", 40)
    sessions = [site.session("2001:db8:bad:999::1") for _ in range(8)]
    assert [mail(s, 1.0).accepted for s in sessions] == [False] * 8, "the flood has used up the network's limit"
    first = [mail(s, 102.0).accepted for s in sessions[:4]]
    for n in range(200):
        site.ledger.sweep(102.0 + n)
    second = [mail(s, 102.0).accepted for s in sessions[4:]]
    assert (first, second) == ([True] * 4, [False] * 4)


def test_refused_recipients_stop_a_client_that_shares_an_account_in_the_message_too() -> None:
    site = parts(Policy(limits=Base(messages=4, refused_recipients=3), max_clients=1))
    assert send(site.session("192.0.2.1"), 1) == 1
    session = site.session("198.51.100.1")
    assert mail(session).accepted
    for _ in range(3):
        session.recipient_refused(0.0)
    decision = session.recipient("outside.example", 0.0)
    assert (decision.limit, decision.key) == ("refused_recipients", "network 198.51.100.0/24")


def test_what_strangers_used_up_is_none_of_a_known_clients_use_where_there_is_no_room_for_either() -> None:
    site = parts(Policy(limits=Base(messages=4), max_clients=1, client=(ClientRule(match=("192.0.2.1", "192.0.2.2")),)))
    for taker in ("192.0.2.1", "198.51.100.1"):
        assert send(site.session(taker), 1) == 1
    assert send(site.session("192.0.2.100"), 9) == 4
    assert send(site.session("192.0.2.2"), 9) == 4


def test_pools_do_not_push_each_other_out() -> None:
    ledger = Ledger(WINDOW_S, 4)
    for n in range(100):
        accept(ledger, claim(f"sender {n}@x.example", 5, pool=Pool.SENDER), 0)
    for pool in (Pool.KNOWN, Pool.STRANGER):
        for n in range(4):
            assert accept(ledger, claim(f"{pool.name} {n}", 1, pool=pool), 0)
    assert ledger.census == {"known": 4, "stranger": 4, "sender": 4, "overflow": 1}


def test_a_client_with_something_open_is_never_forgotten() -> None:
    ledger = Ledger(WINDOW_S, 2)
    hold = reserve(ledger, claim(A, 5), 0)
    assert hold
    for second in range(1, 1000):
        ledger.sweep(10.0 * second)
        accept(ledger, claim(f"198.51.100.{second % 250}", 1), 10.0 * second)
    ledger.settle(hold, 1, 10_000)
    assert ledger.usage(A, claim(A, 5).caps[:1], 10_000) == [1]


def resident_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.fixture
def crowded(full: bool) -> tuple[Ledger, int, float]:
    """A ledger with very many clients: how many, and bytes for each."""
    count = 1_000_000 if full else 100_000
    gc.collect()
    before, ledger = resident_bytes(), Ledger(600.0, count)
    for n in range(count):
        assert accept(ledger, claim(f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::/64", 40), n / count)
    return ledger, count, (resident_bytes() - before) / count


def test_a_client_costs_a_twentieth_of_ze_filters_memory_and_a_million_300_mb(
        crowded: tuple[Ledger, int, float]) -> None:
    ledger, count, each = crowded
    assert len(ledger) == count
    assert each <= 300
    assert each <= ZE_FILTER_BYTES / 20
    promise(12, "memory of the relay for each distinct client", f"{each:.0f} bytes", "at most 300 bytes",
            f"{count} clients")


def test_forgetting_a_crowd_is_done_in_short_steps(crowded: tuple[Ledger, int, float]) -> None:
    ledger = crowded[0]
    shards = ledger._places._shards
    assert max(map(len, shards)) <= 2 * SHARD_SIZE
    longest_s, whole_s, now_s = 0.0, 0.0, 10_000.0
    for _ in shards:
        now_s += 1000.0
        began_s = time.thread_time()
        ledger.sweep(now_s)
        took_s = time.thread_time() - began_s
        longest_s, whole_s = max(longest_s, took_s), whole_s + took_s
    assert len(ledger) == 0
    assert longest_s < whole_s / 4, "no step does a large part of the work"
    assert not any(gc.is_tracked(shard) for shard in shards), "the garbage collector has nothing to walk over"
