"""What is remembered for the judge is bounded, and the most recent clients are what is kept."""

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from egressguard.core.hosts import Host
from egressguard.core.volumes import Volume, summed
from egressguard.relay_records import volumes_of
from egressguard_milter.policy import Policy
from egressguard_milter.reports import Reports
from egressguard_milter.signals import Signals
from egressguard_milter.tallies import MAX_CLIENTS, Tallies, Tally
from tests.fakes import fake_exchange
from tests.relay.parts import parts, send
from tests.unit.test_reports import WEB, Router


def host(number: int) -> Host:
    return Host(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")


def test_a_flood_of_clients_leaves_the_most_recent_ones() -> None:
    tallies, count = Tallies(), MAX_CLIENTS + 100
    for number in range(count):
        tallies.met(host(number), ip_address(host(number)), f"{number}.example")
        tallies.accepted(host(number), "a@x.example", 1, 0, 0, 1, 0.0)
    tallies.refused_recipient(host(count - MAX_CLIENTS))  # known, and so the last one now
    assert len(tallies.recent(count)) == MAX_CLIENTS
    assert tallies.recent(2) == [host(count - MAX_CLIENTS), host(count - 1)]
    assert tallies.of(host(count - MAX_CLIENTS)).accepted == 1
    assert tallies.of(host(0)).accepted == 0
    assert tallies.last_met(host(count - 1)) == (ip_address(host(count - 1)), f"{count - 1}.example")
    assert tallies.last_met(host(0)) == (ip_address(host(0)), "")


def peaks(tally: Tally, now_s: float) -> tuple[int, int]:
    return tally.most_open.most(now_s), tally.most_messages.most(now_s)


def test_the_most_of_a_minute_is_told_for_another_one_so_that_a_lost_report_costs_nothing() -> None:
    tallies = Tallies()
    for _ in range(3):
        tallies.connected(host(1), 10.0)
    for messages in (1, 2, 3, 4):
        tallies.accepted(host(1), "a@x.example", 1, 0, 0, messages, 20.0)
    for _ in range(3):
        tallies.gone(host(1), 30.0)
    tally = tallies.of(host(1))
    assert (tally.connections, tally.open) == (3, 0)
    assert [peaks(tally, now_s) for now_s in (30.0, 59.0, 119.0, 120.0)] == [(3, 4), (3, 4), (3, 4), (0, 0)]
    tallies.connected(host(1), 121.0)
    assert peaks(tally, 121.0) == (1, 0)
    tallies.gone(host(2), 121.0)
    assert tallies.of(host(2)).open == 0, "what was forgotten has none open"


def test_what_a_client_needs_of_each_limit_comes_into_the_routers_history(tmp_path: Path) -> None:
    relay, router = parts(Policy(relay="relay")), Router(tmp_path)
    reports = Reports(1, relay.limits, relay.tallies, Signals())
    fake_exchange(router.place).report(reports.make(0.0))
    router.round()
    sessions = [relay.session("198.51.100.12", now_s=n) for n in range(4)]
    send(sessions[0], 3, 5.0)
    for session in sessions:
        session.close(6.0)
    for now_s in (7.0, 8.0, 200.0):
        fake_exchange(router.place).report(reports.make(now_s))
        router.round()
    router.stop_and_start()
    relay.session("198.51.100.12", now_s=300.0)
    fake_exchange(router.place).report(reports.make(300.0))
    router.round()
    router.round(61.0)
    [found] = [sum_of(windows.values()) for windows in volumes_of(router.database).values()]
    assert (found.accepted, found.connections, found.most_open, found.most_messages) == (3, 5, 4, 3)
    router.database.close()


def test_who_only_connects_is_no_evidence(tmp_path: Path) -> None:
    relay, router = parts(Policy(relay="relay")), Router(tmp_path)
    reports = Reports(1, relay.limits, relay.tallies, Signals())
    for now_s in range(3):
        fake_exchange(router.place).report(reports.make(now_s))
        router.round(61.0)
        relay.session("198.51.100.12", now_s=now_s).close(now_s)
    assert router.database.verdicts(router.now_s) == {}
    assert len(volumes_of(router.database)) == 1
    router.database.close()


def sum_of(windows: Iterable[Volume]) -> Volume:
    """Of the one window that a test takes, or of two."""
    total = Volume()
    for window in windows:
        total = summed({WEB: total}, {WEB: window})[WEB]
    return total
