"""A verdict is a lease: whatever happens to the exchange, the base limits come back by themselves."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.core.documents import MAX_CLIENTS, Bulletin, Client, Origin, Report
from egressguard.core.errors import ExchangeError, ExchangeLateError
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard.exchange import Exchange, open_exchange
from egressguard_milter.link import RETRY_S, Link
from egressguard_milter.policy import Base, ClientRule, Policy, Rule, Tiers
from egressguard_milter.reports import MAX_PERIOD_S, Reports
from egressguard_milter.signals import Change, Signals
from egressguard_milter.watch import Watch
from tests.relay.parts import as_address, mail, parts, send

HOST, OTHER = Host("192.0.2.1"), Host("192.0.2.2")


def bulletin(sequence: int, *, lifetime_s: float = 10.0, name: str = "router", epoch: int = 1,
             **verdicts: State) -> Bulletin:
    states = {Host(f"192.0.2.{key[1:]}"): state for key, state in verdicts.items()}
    return Bulletin(Origin(name, epoch, sequence), lifetime_s, states)


OPENED: list[Exchange] = []


def opened(path: Path) -> Exchange:
    """An exchange that is closed after the test: Python 3.13 complains of one that is not."""
    OPENED.append(open_exchange(f"sqlite:{path}"))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def close_what_was_opened() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


class Relay:
    """The relay's side of the exchange, stepped by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False
        policy = Policy(limits=Base(messages=40), tiers=Tiers(compromised=Rule(0.1)))
        self.signals = Signals()
        self.parts = parts(policy, state=self.signals.state)
        self.limits = self.parts.limits
        reports = Reports(1, self.limits, self.parts.tallies, self.signals)
        self.link = Link(self._open)
        self.watch = Watch(self.limits, self.signals, reports, self.link, self.parts.ledger.sweep,
                           clock=lambda: 100.0)

    def _open(self) -> Exchange:
        if self.broken:
            raise ExchangeError("the disk is gone")
        return opened(self.path)

    def limit(self, now_s: float, host: Host = HOST) -> int:
        return self.limits.scaled(self.limits.allowance(as_address(host)), now_s).standing.limit


class Router:
    """The other side."""

    def __init__(self, path: Path) -> None:
        self.exchange = opened(path)

    def report(self) -> Report:
        (report,) = self.exchange.reports()
        return report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exchange.db"


def test_a_verdict_counts_until_its_lease_ends_even_if_nobody_looks_again(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    relay.watch.step(100.0)
    assert [relay.limit(t) for t in (100.0, 109.9)] == [4, 4]
    assert [relay.limit(t) for t in (110.0, 1e9)] == [40, 40]


def test_reading_the_same_bulletin_again_does_not_prolong_it(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    for now_s in range(100, 200):
        # Another router's heartbeat makes the relay read everything again.
        router.exchange.publish(bulletin(now_s, name="second"))
        relay.watch.step(float(now_s))
        assert relay.limit(float(now_s)) == (4 if now_s < 110 else 40)


def test_an_exchange_that_is_opened_anew_does_not_revive_a_lapsed_verdict(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    for now_s in range(100, 200):
        if now_s % 5 == 0:
            relay.link.close()
        relay.watch.step(float(now_s))
        assert relay.limit(float(now_s)) == (4 if now_s < 110 else 40)


def test_an_older_bulletin_changes_nothing_and_a_restarted_router_counts(path: Path) -> None:
    signals = Signals()
    signals.receive([bulletin(5, h1=State.COMPROMISED)], 0.0)
    signals.receive([bulletin(4)], 1.0)
    assert signals.evaluate(1.0) == [Change(HOST, State.CLEAN, State.COMPROMISED)]
    signals.receive([bulletin(1, epoch=2)], 2.0)
    assert signals.evaluate(2.0) == [Change(HOST, State.COMPROMISED, State.CLEAN)]


def test_where_two_routers_disagree_the_worse_verdict_counts_while_it_is_fresh() -> None:
    signals = Signals()
    signals.receive([bulletin(1, lifetime_s=5.0, h1=State.COMPROMISED),
                     bulletin(1, lifetime_s=10.0, name="second", h1=State.SUSPECT)], 0.0)
    seen = []
    for now_s in (0.0, 4.9, 5.0, 9.9, 10.0):
        signals.evaluate(now_s)
        seen.append(signals.state(HOST, now_s))
    assert seen == [State.COMPROMISED] * 2 + [State.SUSPECT] * 2 + [State.CLEAN]


def test_polls_without_news_change_nothing() -> None:
    signals = Signals()
    signals.receive([bulletin(1, h1=State.SUSPECT)], 0.0)
    assert len(signals.evaluate(0.0)) == 1
    before = signals.states
    assert all(signals.evaluate(t) == [] for t in (0.2, 0.4, 9.9))
    assert signals.states is before


def test_an_absent_exchange_means_base_limits_and_is_said_once(
        path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    relay = Relay(path)
    relay.broken = True
    for tenths in range(1000, 1100):
        relay.watch.step(tenths / 10)
        assert relay.limit(tenths / 10) == 40
    relay.broken = False
    Router(path).exchange.publish(bulletin(1, h1=State.COMPROMISED))
    for now_s in (110.0, 110.0 + RETRY_S):
        relay.watch.step(now_s)
    assert relay.limit(110.0 + RETRY_S) == 4
    events = [r.getMessage().split()[0] for r in caplog.records]
    assert events == ["event=exchange_unavailable", "event=exchange_available", "event=tier"]


def test_the_log_says_the_limit_of_a_client_that_a_rule_names_by_its_host_name(
        path: Path, caplog: pytest.LogCaptureFixture) -> None:
    relay, router = Relay(path), Router(path)
    relay.limits.use(replace(relay.limits.policy, client=(ClientRule(match=("web.example.org",), messages=500),)))
    relay.parts.session(HOST, "web.example.org")
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    relay.watch.step(100.0)
    assert any("event=tier" in r.getMessage() and "limit=50" in r.getMessage() for r in caplog.records)


def test_a_verdict_lapses_although_the_exchange_is_gone(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    relay.watch.step(100.0)
    relay.link.close()
    relay.broken = True
    relay.watch.step(105.0)
    assert relay.limit(105.0) == 4
    relay.watch.step(110.0)
    assert relay.limit(110.0) == 40


def test_a_new_file_in_place_of_a_deleted_one_is_found(path: Path) -> None:
    relay = Relay(path)
    relay.watch.step(100.0)
    for file in path.parent.iterdir():
        file.unlink()
    router = Router(path)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    for now_s in (101.0, 101.0 + RETRY_S):
        relay.watch.step(now_s)
    assert relay.limit(101.0 + RETRY_S) == 4


def test_a_damaged_bulletin_is_left_out_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    router.exchange._store.put("bulletin", "evil", '{"name":')
    relay.watch.step(100.0)
    assert relay.limit(100.0) == 4
    assert sum("event=exchange_damaged" in r.getMessage() for r in caplog.records) == 1


def test_a_file_that_is_no_database_means_base_limits(path: Path) -> None:
    path.write_bytes(b"\0garbage" * 1000)
    relay = Relay(path)
    relay.watch.step(100.0)
    assert relay.limit(100.0) == 40


def test_a_report_says_what_a_client_did_and_what_is_done_with_it(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    session = relay.parts.session(OTHER, now_s=100.0)
    for number in range(5):
        assert send(session, 1, 100.0, sender=f"user{number % 2}@inside.example", recipients=3) == 1
    send(relay.parts.session(None, now_s=100.0), 1, 100.0)
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED, h2=State.COMPROMISED))
    relay.watch.step(100.0)
    mail(session, 100.0)
    session.recipient_refused(100.0)
    assert router.report().clients == {
        HOST: Client(Tier.TIGHTENED, 4, 0, 0),
        OTHER: Client(Tier.TIGHTENED, 4, 5, 0, recipients=15, senders=2, domains=1, connections=1, most_open=1,
                      most_messages=5)}
    relay.watch.start()
    relay.watch.stop()
    assert router.report().clients[OTHER] == Client(Tier.TIGHTENED, 4, 5, 1, {"messages": 1}, 15, 1, 2, 1, 0, 1, 1, 5)


def test_a_report_is_left_at_every_change_and_otherwise_now_and_then(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    sequences = []
    for now_s in (0.0, 1.0, 2.0, MAX_PERIOD_S):
        if now_s == 2.0:
            router.exchange.publish(bulletin(1, h1=State.SUSPECT))
        relay.watch.step(now_s)
        sequences.append(router.report().origin.sequence)
    assert sequences == [1, 1, 2, 2]
    relay.watch.step(2.0 + MAX_PERIOD_S)
    assert router.report().origin.sequence == 3


def test_a_report_whose_answer_is_late_is_left_again_at_the_next_poll(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, router = Relay(path), Router(path)

    def late(exchange: Exchange, report: Report) -> None:
        raise ExchangeLateError("no answer within 0.2 s")
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "report", late)
        relay.watch.step(0.0)
    relay.watch.step(0.2)
    assert router.report().origin.sequence == 2


def test_a_report_stays_small_and_names_the_suspects_first(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    for number in range(2 * MAX_CLIENTS):
        relay.parts.tallies.deferred(Host(f"2001:db8:0:{number:x}::/64"), "messages")
    router.exchange.publish(bulletin(1, h1=State.COMPROMISED))
    relay.watch.step(0.0)
    assert len(router.report().clients) == MAX_CLIENTS
    assert HOST in router.report().clients


def test_a_fault_nobody_thought_of_neither_ends_the_thread_nor_keeps_a_verdict(
        path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, lifetime_s=0.001, h1=State.COMPROMISED))
    relay.watch.step(0.0)
    assert relay.signals.states

    def fail(_: float) -> None:
        raise RuntimeError("a bug")
    monkeypatch.setattr(relay.link, "fetch", fail)
    relay.watch.safe_step()
    assert not relay.signals.states
    assert any("event=watch_failed" in r.getMessage() for r in caplog.records)


def test_the_thread_polls_and_stops(path: Path) -> None:
    relay, router = Relay(path), Router(path)
    router.exchange.publish(bulletin(1, lifetime_s=1000.0, h1=State.COMPROMISED))
    seen = threading.Event()
    evaluate = relay.signals.evaluate

    def observed(now_s: float) -> list[Change]:
        changes = evaluate(now_s)
        if changes:
            seen.set()
        return changes
    relay.signals.evaluate = observed  # type: ignore[method-assign]
    relay.watch.start()
    assert seen.wait(30)
    relay.watch.stop()
    assert router.report().clients[HOST].tier is Tier.TIGHTENED
