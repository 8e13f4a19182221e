"""Several relays, one budget per client, on the real server: exact while it is there, split while it is away."""

import threading
import time
from collections.abc import Iterator

import pytest

from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange import line
from egressguard.exchange.line import CALL_S
from egressguard_milter.account import Kind, Pool
from egressguard_milter.budgets import Budgets
from egressguard_milter.ledger import Cap, Claim, Hold, Refusal
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
        self.ledgers = [SharedLedger(600.0, 1000, None, Budgets(place), RELAYS) for _ in range(RELAYS)]
        self.tend()

    def tend(self) -> None:
        """What the other thread does five times a second, without the breaker's patience."""
        for ledger in self.ledgers:
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

    def relay() -> None:
        ledger = SharedLedger(600.0, 1000, None, Budgets(place), 8)
        ledger.tend(0.0)
        barrier.wait()
        for _ in range(25):
            hold = ledger.reserve([CLAIM], time.monotonic())
            if isinstance(hold, Hold):
                ledger.settle(hold, 1, time.monotonic())
                accepted.append(1)
        ledger._budgets.close()

    threads = [threading.Thread(target=relay) for _ in range(8)]
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
def test_while_the_server_is_away_each_relay_allows_its_part_at_once_and_afterwards_all_is_exact(
        relays: Relays, proxy: Interference, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert relays.send(0, 5) == 5
    monkeypatch.setattr(line, "CALL_S", CALL_S)
    if away == "slow":
        proxy.delay_s = 0.5
    else:
        proxy.swallows = True
    began_s = time.monotonic()
    assert relays.send(0, LIMIT) == LIMIT // RELAYS - 5
    assert relays.send(1, LIMIT) == LIMIT // RELAYS
    assert "not shared" in relays.ledgers[0].fault
    took_s = time.monotonic() - began_s
    assert took_s < 2 * CALL_S + 1.0, "one deadline for each relay, and no callback waits after that"
    monkeypatch.setattr(line, "CALL_S", 2.0)
    proxy.delay_s, proxy.swallows = 0.0, False
    relays.tend()
    assert relays.send(1, LIMIT) + relays.send(0, LIMIT) == 0, "what passed meanwhile is known to all"
    assert relays.ledgers[0].fault == ""


def test_a_server_that_forgot_is_told_again_and_nobody_gets_a_second_limit(relays: Relays, server: Server) -> None:
    assert relays.send(0, 25) == 25
    assert relays.send(1, 10) == 10
    server.command("FLUSHALL")
    passed = [relays.send(1, 1), relays.send(0, LIMIT)]
    assert sum(passed) == LIMIT - 35, passed
    assert relays.send(1, LIMIT) == 0


def test_a_reservation_that_a_flush_forgot_counts_once_it_is_settled(relays: Relays, server: Server) -> None:
    now_s = time.monotonic()
    held = [relays.ledgers[0].reserve([CLAIM], now_s) for _ in range(5)]
    server.command("FLUSHALL")
    assert relays.send(0, 1) == 1
    for hold in held:
        assert isinstance(hold, Hold)
        relays.ledgers[0].settle(hold, 1, now_s)
    assert relays.send(0, 1) == 1
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
    time.sleep(refusal.retry_s + 0.1)
    assert relays.send(1, 4, claim) == 3


def test_a_callback_with_a_breaker_open_costs_no_time(relays: Relays, proxy: Interference) -> None:
    proxy.swallows = True
    relays.send(0, 1)
    began_s = time.monotonic()
    relays.send(0, 50)
    assert time.monotonic() - began_s < CALL_S * 5, "fifty deadlines would be ten seconds"


def test_an_idle_relay_tells_a_server_that_forgot_without_being_asked(relays: Relays, server: Server) -> None:
    assert relays.send(0, 25) == 25
    server.command("FLUSHALL")
    relays.tend()
    assert relays.send(1, LIMIT) == LIMIT - 25


def test_a_mutant_that_tells_nothing_to_a_server_that_forgot_gives_a_second_limit(
        relays: Relays, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedLedger, "_to_say", lambda *_: [])
    assert relays.send(0, LIMIT) == LIMIT
    server.command("FLUSHALL")
    relays.tend()
    assert relays.send(1, LIMIT) > 0
