"""Several relays, one budget per client, on the real server: exact while it is there, never looser while it is away."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange import line
from egressguard.exchange.line import CALL_S
from egressguard_milter.account import Kind, Pool
from egressguard_milter.budgets import Budgets
from egressguard_milter.ledger import Cap, Claim, Hold, Refusal
from egressguard_milter.records import Record
from egressguard_milter.shared_ledger import SharedLedger
from lab.interference import Interference
from lab.valkey import Server
from tests import promises

pytestmark = pytest.mark.usefixtures("patient")
LIMIT, RELAYS = 40, 2
CLAIM = Claim("192.0.2.1", (Cap(Kind.MESSAGES, LIMIT, 600.0),), Pool.KNOWN)


@pytest.fixture
def proxy(server: Server) -> Iterator[Interference]:
    with Interference(server.port) as found:
        yield found


class Relays:
    """Two ledgers with one server; a real clock, since the server has one."""

    def __init__(self, port: int) -> None:
        place = ServerPlace((("127.0.0.1", port),), False)
        self.ledgers = [SharedLedger(600.0, 1000, None, Budgets(place, f"relay{n}", RELAYS, here_s=1.0), RELAYS)
                        for n in range(RELAYS)]
        self.tend()

    def tend(self) -> None:
        """What the other thread does five times a second, without the breaker's patience."""
        for ledger in self.ledgers * 2:
            ledger._budgets._retry_at_s = 0.0
            ledger.tend(time.monotonic())

    def send(self, relay: int, count: int, claim: Claim = CLAIM) -> int:
        return sum(self.message(relay, claim) for _ in range(count))

    def message(self, relay: int, claim: Claim = CLAIM) -> bool:
        hold = self.ledgers[relay].reserve([claim], time.monotonic())
        if isinstance(hold, Refusal):
            return False
        self.ledgers[relay].settle(hold, 1, time.monotonic())
        return True

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger._budgets.close()


@pytest.fixture
def relays(proxy: Interference) -> Iterator[Relays]:
    found = Relays(proxy.port)
    yield found
    found.close()


def test_what_passes_through_any_relay_adds_up_to_the_limit(relays: Relays) -> None:
    assert relays.send(0, 25) == 25
    assert relays.send(1, 25) == LIMIT - 25
    assert relays.send(0, 1) == relays.send(1, 1) == 0


def test_exactly_the_limit_of_many_parallel_messages_passes(server: Server) -> None:
    """Each thread is a relay of its own, as they would be on several machines."""
    place = ServerPlace((("127.0.0.1", server.port),), False)
    accepted, barrier = [], threading.Barrier(8)

    def relay(name: str) -> None:
        ledger = SharedLedger(600.0, 1000, None, Budgets(place, name, 8), 8)
        ledger.tend(0.0)
        barrier.wait()
        for _ in range(25):
            hold = ledger.reserve([CLAIM], time.monotonic())
            if isinstance(hold, Hold):
                ledger.settle(hold, 1, time.monotonic())
                accepted.append(1)
        ledger._budgets.close()

    threads = [threading.Thread(target=relay, args=(f"relay{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accepted) == LIMIT
    promises.promise(9, "messages of one client that passed 8 relays at once", len(accepted), LIMIT,
                     f"a shared limit of {LIMIT}, 200 messages, the real server")


def test_a_message_that_is_not_sent_costs_nothing(relays: Relays) -> None:
    for _ in range(3 * LIMIT):
        hold = relays.ledgers[0].reserve([CLAIM], time.monotonic())
        assert isinstance(hold, Hold)
        relays.ledgers[0].release(hold, time.monotonic())
    assert relays.send(1, LIMIT + 1) == LIMIT


def test_recipients_are_shared_as_well_and_a_refused_one_costs_nothing(relays: Relays) -> None:
    claim = Claim("192.0.2.2", (Cap(Kind.RECIPIENTS, 10, 600.0),))
    for relay in (0, 1):
        hold = relays.ledgers[relay].reserve([claim], time.monotonic())
        assert isinstance(hold, Hold)
        more = [relays.ledgers[relay].extend(hold, time.monotonic()) for _ in range(8)]
        assert more.count(None) == (8, 0)[relay]
        relays.ledgers[relay].settle(hold, hold.recipients, time.monotonic())
    assert relays.send(0, 1, claim) == 0


def test_all_budgets_pay_or_none(relays: Relays) -> None:
    small = Claim("group web", (Cap(Kind.MESSAGES, 3, 600.0),))
    for _ in range(10):
        hold = relays.ledgers[0].reserve([CLAIM, small], time.monotonic())
        if isinstance(hold, Hold):
            relays.ledgers[0].settle(hold, 1, time.monotonic())
    assert relays.send(1, LIMIT) == LIMIT - 3


@pytest.mark.parametrize("away", ["swallows", "slow"])
def test_while_the_server_is_away_each_relay_goes_on_as_it_did_and_afterwards_all_is_exact(
        relays: Relays, proxy: Interference, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim("192.0.2.9", (Cap(Kind.MESSAGES, LIMIT, 4.0),), Pool.KNOWN)
    assert relays.send(0, 30, claim) == 30
    assert relays.send(1, 5, claim) == 5
    monkeypatch.setattr(line, "CALL_S", CALL_S)
    if away == "slow":
        proxy.delay_s = 0.5
    else:
        proxy.swallows = True
    began_s, passed = time.monotonic(), [0, 0]
    assert relays.send(0, LIMIT, claim) == relays.send(1, LIMIT, claim) == 0, "nobody knows that they are away"
    assert "not shared" in relays.ledgers[0].fault
    assert time.monotonic() - began_s < 2 * CALL_S + 5.0, "one deadline for each relay, and no callback waits after that: that would be sixteen seconds"
    while time.monotonic() - began_s < 3.0:
        passed = [passed[n] + relays.send(n, 1, claim) for n in range(RELAYS)]
        time.sleep(0.05)
    assert passed == [0, 0], "what they had counts still"
    while time.monotonic() - began_s < 7.0:
        passed = [passed[n] + relays.send(n, 1, claim) for n in range(RELAYS)]
        time.sleep(0.02)
    assert 5 < passed[0] <= 2 * (LIMIT // RELAYS), "at most its part"
    assert 0 < passed[1] <= 10, "as many as it had"
    monkeypatch.setattr(line, "CALL_S", 2.0)
    proxy.delay_s, proxy.swallows = 0.0, False
    relays.tend()
    time.sleep(4.2)
    relays.tend()
    assert relays.send(1, 15, claim) + relays.send(0, LIMIT, claim) == LIMIT
    assert relays.ledgers[0].fault == ""


def test_a_server_that_is_killed_in_the_middle_gives_nobody_more_than_the_limit(tmp_path: Path) -> None:
    """Killed, away, and started again empty; each minute is one window."""
    with Server() as server:
        relays = Relays(server.port)
        before = [relays.send(0, 12), relays.send(1, 9)]
        server.stop()
        during = [relays.send(n, LIMIT) for n in (0, 1)]
        time.sleep(2.5)  # the relays know now that they are alone
        during += [relays.send(n, LIMIT) for n in (0, 1)]
        server.start()
        passed = [relays.send(1, LIMIT)]  # it knows of nobody yet
        relays.tend()
        assert (before, during, passed) == ([12, 9], [0, 0, 0, 0], [0])
        assert relays.send(1, LIMIT) + relays.send(0, LIMIT) == LIMIT - 21
        relays.close()


def test_a_server_that_forgot_is_told_again_and_nobody_gets_a_second_limit(relays: Relays, server: Server) -> None:
    assert relays.send(0, 25) == 25
    assert relays.send(1, 10) == 10
    server.command("FLUSHALL")
    assert relays.send(1, LIMIT) == 0, "the other one may have used the rest of the limit"
    assert "1 of 2 relays have not been heard" in relays.ledgers[1].fault
    assert relays.send(0, LIMIT) == LIMIT - 35
    relays.tend()
    assert relays.send(1, LIMIT) == 0
    assert relays.ledgers[1].fault == ""


def test_a_server_that_starts_again_with_what_it_had_saved_gives_nobody_a_second_limit() -> None:
    with Server() as server:
        relays = Relays(server.port)
        assert relays.send(0, 10) + relays.send(1, 4) == 14
        server.command("SAVE")
        assert relays.send(0, 20) == 20
        server.stop()
        server.start()
        relays.tend()
        assert relays.send(1, LIMIT) + relays.send(0, LIMIT) == LIMIT - 34
        relays.close()


def test_a_reservation_that_a_flush_forgot_counts_all_the_same(relays: Relays, server: Server) -> None:
    now_s = time.monotonic()
    held = [relays.ledgers[0].reserve([CLAIM], now_s) for _ in range(5)]
    server.command("FLUSHALL")
    relays.tend()
    assert relays.send(1, LIMIT - 6) == LIMIT - 6
    assert relays.send(0, 2) == 1
    for hold in held:
        assert isinstance(hold, Hold)
        relays.ledgers[0].settle(hold, 1, now_s)
    relays.tend()
    assert relays.send(0, 1) == relays.send(1, 1) == 0


def test_a_reservation_that_was_told_again_can_still_be_given_back(relays: Relays, server: Server) -> None:
    now_s = time.monotonic()
    held = [relays.ledgers[0].reserve([CLAIM], now_s) for _ in range(5)]
    server.command("FLUSHALL")
    relays.tend()
    for hold in held:
        assert isinstance(hold, Hold)
        relays.ledgers[0].release(hold, now_s)
    relays.tend()
    assert relays.send(1, LIMIT + 1) == LIMIT


def test_a_relay_that_restarts_says_what_it_had_in_place_of_what_it_said(relays: Relays, proxy: Interference) -> None:
    """Nothing counts twice, and nothing is lost."""
    assert relays.send(0, 10) == 10
    old = relays.ledgers[0]
    records = [Record(CLAIM.key, Pool.KNOWN, (0, 1, 1, 0), time.monotonic())] * 10
    place = ServerPlace((("127.0.0.1", proxy.port),), False)
    relays.ledgers[0] = SharedLedger(600.0, 1000, None, Budgets(place, "relay0", RELAYS), RELAYS)
    relays.ledgers[0].remember(records, time.monotonic())
    relays.ledgers[0].resize(600.0, 1000, {600.0})
    old._budgets.close()
    relays.tend()
    assert relays.send(1, LIMIT) == LIMIT - 10


def test_a_relay_that_is_down_costs_the_others_no_more_than_it_had(relays: Relays) -> None:
    assert relays.send(0, 7) == 7
    relays.ledgers[0]._budgets.close()
    time.sleep(1.5)  # longer than it counts as here
    assert relays.send(1, LIMIT) == LIMIT - 7


def test_a_forgiven_client_begins_anew_at_every_relay(relays: Relays) -> None:
    assert relays.send(0, LIMIT) == LIMIT
    assert relays.ledgers[0].forgive(CLAIM.key, time.monotonic())
    assert relays.send(1, LIMIT + 1) == LIMIT


def test_what_is_counted_leaves_with_its_window(relays: Relays) -> None:
    claim = Claim("192.0.2.3", (Cap(Kind.MESSAGES, 3, 1.0),))
    assert relays.send(0, 4, claim) == 3
    refusal = relays.ledgers[1].reserve([claim], time.monotonic())
    assert isinstance(refusal, Refusal)
    assert 0 < refusal.retry_s <= 1.1
    time.sleep(refusal.retry_s + 0.3)
    relays.tend()
    assert relays.send(1, 4, claim) == 3


def test_a_callback_with_a_breaker_open_costs_no_time(relays: Relays, proxy: Interference) -> None:
    proxy.swallows = True
    relays.send(0, 1)
    began_s = time.monotonic()
    relays.send(0, 50)
    assert time.monotonic() - began_s < CALL_S * 25, "fifty deadlines would be ten seconds"


def test_an_idle_relay_tells_a_server_that_forgot_without_being_asked(relays: Relays, server: Server) -> None:
    assert relays.send(0, 25) == 25
    server.command("FLUSHALL")
    relays.tend()
    assert relays.send(1, LIMIT) == LIMIT - 25


def test_a_mutant_that_tells_nothing_to_a_server_that_forgot_gives_a_second_limit(
        relays: Relays, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedLedger, "_statement", lambda *_: {})
    assert relays.send(0, LIMIT) == LIMIT
    server.command("FLUSHALL")
    relays.tend()
    assert relays.send(1, LIMIT) > 0
