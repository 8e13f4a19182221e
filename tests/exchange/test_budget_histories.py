"""Whatever happens to the server, to relays and between them: no window ever holds more than the limit."""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest
from redis import Redis

from egressguard_milter import alone, budget_scripts, budgets, shared_ledger
from egressguard_milter.account import Kind, Pool
from egressguard_milter.budgets import Budgets
from egressguard_milter.last_life import LATEST
from egressguard_milter.ledger import Cap, Claim, Hold
from egressguard_milter.shared_ledger import SharedLedger
from lab import valkey
from tests import promises
from tests.exchange.budget_histories import OTHER, Disk, Relay, Server, World, play

NOW = ("redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')")
PROCESS = ("redis.pcall('INFO', 'server')", "redis.call('GET', 'process')")


@pytest.fixture
def client(server: valkey.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """The server, whose scripts read the clock of the history, and which process it is."""
    monkeypatch.setattr(budgets, "SLOW_S", 5.0)  # a shared machine may hesitate
    monkeypatch.setattr(shared_ledger, "SAYING_S", 60.0)
    for name in ("GREET", "TAKE"):
        monkeypatch.setattr(budgets, name, getattr(budget_scripts, name).replace(*NOW).replace(*PROCESS))
    with Redis(host=server.address, port=server.port) as found:
        yield found


def test_no_random_history_lets_more_than_a_limit_through_in_any_window(
        client: Redis, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    number = 5000 if full else 150
    alone_passed = sum(play(client, monkeypatch, seed).alone for seed in range(number))
    assert alone_passed > number / 10, "without the server something passes, too"
    promises.promise(9, "random histories of 2–4 relays that share budgets in which a window held more than its limit", 0, 0,
                     f"{number} histories: partitions, lost and late calls, killed relays, a server that forgot, one that "
                     "came back with what it had saved, failover to a lagging replica and back to the old primary, INFO refused; "
                     f"{alone_passed} messages passed without the server")


def found(client: Redis, monkeypatch: pytest.MonkeyPatch) -> bool:
    for seed in range(300):
        try:
            play(client, monkeypatch, seed)
        except AssertionError as error:
            return " passed in " in str(error)
    return False


def change(name: str, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Another script on the server."""
    def act(monkeypatch: pytest.MonkeyPatch) -> None:
        script = getattr(budgets, name)
        assert old in script
        monkeypatch.setattr(budgets, name, script.replace(old, new))
    return act


def replace(thing: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(thing, name, value)


MUTANTS = {
    "a part of the limit at once, as it was": replace(alone.Alone, "most", lambda s, b, limit, w, u, n: limit // s._relays),
    "alone as soon as an answer fails": replace(Budgets, "alone_from_s", property(lambda self: float("-inf"))),
    "nothing is set aside for who is away": change("TAKE", "sum = sum + set_aside(KEYS[i], window, most)", ""),
    "a server that forgot is not told": replace(SharedLedger, "_statement", lambda *_: {}),
    "what a relay missing since then had is not waited for": change("TAKE", "missing > 0 and now < born + window", "false"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_histories_find_a_mutant(client: Redis, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant](monkeypatch)
    assert found(client, monkeypatch)


def two_relays(client: Redis, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Relay, Relay]:
    """Two relays that have met."""
    world = World(client, 1, relays=2)
    monkeypatch.setattr(budgets, "connect", world.connect)
    for relay in world.relays * 2:
        relay.tend()
    return world, world.relays[0], world.relays[1]


def taken(world: World, relay: Relay, claims: list[Claim]) -> int:
    """How many of these messages, one for each claim, the relay lets begin."""
    return sum(isinstance(relay.ledger.reserve([claim], world.now_s), Hold) for claim in claims)


def passed_after_a_late_call(client: Redis, monkeypatch: pytest.MonkeyPatch) -> int:
    """How much of a limit of 12 two relays let through, when what one said long ago arrives at the end."""
    world, one, other = two_relays(client, monkeypatch)
    passed = sum(world.begin(one, (OTHER,)) for _ in range(5))
    world.pass_time(20.0)
    for message in list(world.messages):
        one.ledger.settle(message.hold, 1, world.now_s)  # so late that it has to be said again
    world.messages.clear()
    one.loss, world.chance.random = 1.0, chain([2.0, 0.1], repeat(2.0)).__next__  # type: ignore[method-assign]
    one.tend()  # it is heard of, and what it says comes late
    [late], one.loss = world.server.late, 0.0
    one.tend()
    passed += sum(world.begin(one, (OTHER,)) for _ in range(7))
    world.server.run(late)
    other.tend()
    return passed + taken(world, other, [OTHER] * 12)


def test_what_an_earlier_connection_said_does_not_replace_what_was_said_since(
        client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed_after_a_late_call(client, monkeypatch) == 12
    change("TAKE", "session ~= word", "false")(monkeypatch)
    assert passed_after_a_late_call(client, monkeypatch) > 12, "the mutant"


def passed_while_it_is_said(client: Redis, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of 40 clients that used up their limits get more at another relay, while a server that forgot is told."""
    world, one, other = two_relays(client, monkeypatch)
    claims = [Claim(f"192.0.2.{n}", (Cap(Kind.MESSAGES, 1, 600.0),), Pool.KNOWN) for n in range(40)]
    assert sum(world.begin(one, (claim,)) for claim in claims) == 40
    world.pass_time(1.0)
    world.server.forget()
    world.server.set_clock(world.now_s)
    other.tend()
    one.loss, world.chance.random = 1.0, chain([2.0] * 4, [0.5], repeat(2.0)).__next__  # type: ignore[method-assign]
    one.tend()  # unknown, begins anew, is heard of, says something; then it is interrupted
    return taken(world, other, claims)


def test_a_relay_is_not_here_before_it_has_said_everything(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed_while_it_is_said(client, monkeypatch) == 0
    monkeypatch.setattr(SharedLedger, "_unsaid_left", lambda self: False)
    assert passed_while_it_is_said(client, monkeypatch) > 0, "the mutant"


def passed_on_a_copy(world: World, one: Relay, other: Relay, happens: Callable[[], None]) -> int:
    """How much of a limit of 12 passes when a relay goes on with a copy that had only seen 4 of 12."""
    passed = sum(world.begin(one, (OTHER,)) for _ in range(4))
    world.server.replicate()
    passed += sum(world.begin(one, (OTHER,)) for _ in range(8))
    happens()
    world.server.set_clock(world.now_s)
    for relay in (other, other):
        relay.tend()
    return passed + taken(world, other, [OTHER] * 12)


COPIES = {"a server starts again with what it had saved": Server.start_again, "a replica is promoted": Server.fail_over}


def passed_on_its(copy: str, client: Redis, monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> int:
    """The same; `killed`: the relay that finds it first is so at this very instant."""
    world, one, other = two_relays(client, monkeypatch)

    def happens() -> None:
        COPIES[copy](world.server)
        if killed:
            other.begin()

    return passed_on_a_copy(world, one, other, happens)


@pytest.mark.parametrize("killed", [False, True], ids=["", "and a relay is killed"])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_told_what_it_missed(client: Redis, copy: str, killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed_on_its(copy, client, monkeypatch, killed=killed) == 12
    change("GREET", "or copy or", "or")(monkeypatch)
    assert passed_on_its(copy, client, monkeypatch, killed=killed) > 12, "the mutant"


def passed_with_a_server_that_does_not_tell(client: Redis, monkeypatch: pytest.MonkeyPatch) -> int:
    """The same when relays may no longer ask which process it is."""
    world, one, other = two_relays(client, monkeypatch)

    def happens() -> None:
        world.server.fail_over()
        world.server.tell(False)
        other.begin()

    return passed_on_a_copy(world, one, other, happens)


def test_a_server_that_may_be_a_copy_is_not_believed(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed_with_a_server_that_does_not_tell(client, monkeypatch) == 12
    change("GREET", "if not process then return '' end", "process = process or ''")(monkeypatch)
    change("GREET", "or copy or", "or process ~= '' and copy or")(monkeypatch)
    assert passed_with_a_server_that_does_not_tell(client, monkeypatch) > 12, "the mutant"


def test_a_relay_that_may_not_ask_which_process_the_server_is_says_so_and_goes_on_alone_until_it_may(
        client: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    world, one, other = two_relays(client, monkeypatch)
    world.server.start_again()
    world.server.tell(False)
    for relay in (one, other) * 2:
        relay.tend()
    for relay in (one, other):
        assert "+info" in relay.ledger.fault
    assert "+info" in caplog.text
    world.pass_time(5.0)
    assert taken(world, one, [OTHER] * 12) + taken(world, other, [OTHER] * 12) == 0, "neither had anything"
    world.pass_time(1200.0)
    assert taken(world, one, [OTHER] * 12) == taken(world, other, [OTHER] * 12) == 6, "its part"
    world.server.tell(True)
    for relay in (one, other) * 2:
        relay.tend()
    assert one.ledger.fault == other.ledger.fault == ""
    assert taken(world, one, [OTHER]) == taken(world, other, [OTHER]) == 0


def passed_on_a_primary_of_the_past(client: Redis, monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> int:
    """How much of a limit of 12 passes when the primary comes back whose replica the relays went over to; `killed`: the relay
    that finds it first is so at this very instant.
    """
    world, one, other = two_relays(client, monkeypatch)
    world.server.replicate()
    world.server.fail_over()
    world.pass_time(1.0)
    for relay in (one, other) * 2:
        relay.tend()
    passed = sum(world.begin(one, (OTHER,)) for _ in range(12))
    world.server.come_back()
    world.server.set_clock(world.now_s)
    if killed:
        other.begin()
    for relay in (other, other):
        relay.tend()
    return passed + taken(world, other, [OTHER] * 12)


def test_a_primary_of_the_past_is_not_believed(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed_on_a_primary_of_the_past(client, monkeypatch, killed=False) == 12
    change("GREET", "or past then", "then")(monkeypatch)
    assert passed_on_a_primary_of_the_past(client, monkeypatch, killed=False) > 12, "the mutant"


def test_nor_by_a_relay_that_was_killed(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed_on_a_primary_of_the_past(client, monkeypatch, killed=True) == 12
    monkeypatch.setattr(Disk, "keep", lambda *_: None)
    assert passed_on_a_primary_of_the_past(client, monkeypatch, killed=True) > 12, "the mutant"


def test_a_relay_that_cannot_read_which_life_it_knew_believes_none_that_it_finds(
        client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    world, one, other = two_relays(client, monkeypatch)
    world.pass_time(1.0)
    other.disk.found, before = LATEST, one.budgets.life
    other.begin()
    for relay in (other, one, other):
        relay.tend()
    assert before != one.budgets.life == other.budgets.life != LATEST
    assert other.disk.found == other.budgets.life
