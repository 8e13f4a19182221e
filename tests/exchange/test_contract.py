"""The contract of every exchange: on the fake, on SQLite and on the real server."""

import pytest

from egressguard.core.documents import Client, Origin, Report
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from tests.exchanges import Open, bulletin, report

pytestmark = pytest.mark.usefixtures("patient")


def test_what_a_router_leaves_a_relay_finds(connect: Open) -> None:
    router, relay = connect(), connect()
    router.publish(bulletin("r1", 1))
    router.publish(bulletin("r2", 7, State.COMPROMISED))
    assert relay.bulletins() == [bulletin("r1", 1), bulletin("r2", 7, State.COMPROMISED)]
    assert relay.reports() == []


def test_only_the_newest_document_of_an_origin_stays(connect: Open) -> None:
    router, relay = connect(), connect()
    for sequence in range(3):
        router.publish(bulletin("r1", sequence))
        assert relay.bulletins() == [bulletin("r1", sequence)]


def test_a_report_comes_back_whole(connect: Open) -> None:
    relay, router = connect(), connect()
    relay.report(report("relay", 1))
    assert router.reports() == [report("relay", 1)]
    assert router.bulletins() == []


def test_changed_tells_of_others_writing_and_not_of_silence(connect: Open) -> None:
    router, relay = connect(), connect()
    relay.changed()
    assert not relay.changed()
    router.publish(bulletin("r1", 1))
    assert relay.changed()
    assert not relay.changed()
    relay.report(report("relay", 1))
    assert not relay.changed(), "one's own writing is no news"
    assert router.changed()


def test_what_is_left_outlives_whoever_left_it(connect: Open) -> None:
    router = connect()
    router.publish(bulletin("r1", 1))
    router.close()
    assert connect().bulletins() == [bulletin("r1", 1)]


def test_a_decommissioned_one_is_forgotten_and_no_other(connect: Open) -> None:
    router, relay = connect(), connect()
    router.publish(bulletin("r1", 1))
    for name in ("relay1", "relay2"):
        relay.report(report(name, 1))
    assert router.names() == {"bulletin": ["r1"], "report": ["relay1", "relay2"]}
    assert len(relay.reports()) == 2
    router.changed()
    relay.changed()
    router.forget("relay1")
    assert relay.changed()
    assert relay.reports() == [report("relay2", 1)]
    assert router.names() == {"bulletin": ["r1"], "report": ["relay2"]}


def test_one_damaged_document_silences_nobody_else_and_is_named(connect: Open) -> None:
    router, relay = connect(), connect()
    router.publish(bulletin("r1", 1))
    router._store.put("bulletin", "r0", '{"entries": []}')
    for _ in range(3):
        assert relay.bulletins() == [bulletin("r1", 1)]
    assert list(relay.left_out) == [("bulletin", "r0")]
    assert relay.counts.total() == 1, "counted once, however often it is read"
    router.forget("r0")
    assert relay.bulletins() == [bulletin("r1", 1)]
    assert not relay.left_out


def test_another_ones_document_under_a_false_name_is_left_out(connect: Open) -> None:
    router, relay = connect(), connect()
    router.publish(bulletin("r1", 1))
    router._store.put("bulletin", "r2", router._store.read("bulletin")["r1"])
    assert relay.bulletins() == [bulletin("r1", 1)]
    assert "another one's name" in relay.left_out["bulletin", "r2"]
    assert relay.counts["forged"] == 1


def test_more_documents_than_one_call_carries_are_read(connect: Open) -> None:
    router, relay = connect(), connect()
    for n in range(300):
        router.publish(bulletin(f"r{n:04}", 1))
    assert len(relay.bulletins()) == 300


def test_a_long_document_comes_back_whole(connect: Open) -> None:
    relay, router = connect(), connect()
    clients = {Host(f"2001:db8:0:{n:x}::/64"): Client(Tier.NORMAL, 40, n, n) for n in range(1000)}
    long = Report(Origin("relay", 1, 1), 30.0, clients)
    relay.report(long)
    assert router.reports() == [long]
