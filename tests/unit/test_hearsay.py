"""Whoever owns a relay, or the site key, can say nothing that hurts more than a suspicion of this site's hosts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.core import hearsay
from egressguard.core.documents import Bulletin, Client, Origin, Report, Tried, decode_report, encode_report
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard.relay_records import volumes_of
from tests.fakes import fake_exchange
from tests.unit.test_reports import OTHER, WEB, WEB6, Router

STRANGE = [Host(text) for text in ("203.0.113.9", "::/64", "198.51.100.12 ", "no address", "2001:DB8:0:12::/64",
                                   "2001:db8:0:12::2", "198.51.100.12/32")]
LARGEST = 2**63 - 1


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path)
    yield made
    made.database.close()


def say(router: Router, sequence: int, hosts: list[Host], count: int = 100) -> None:
    """The relay has seen these clients, and all that they mail to was refused."""
    clients = {host: Client(Tier.NORMAL, 40, count, 0, {}, count, count, 0, 5) for host in hosts}
    fake_exchange(router.place).report(Report(Origin("relay", 1, sequence), 30.0, clients))


def tell(router: Router, sequence: int, tried: dict[Host, Tried]) -> None:
    """Another router has counted so much."""
    fake_exchange(router.place).publish(Bulletin(Origin("r2", 1, sequence), 30.0, {}, {}, tried))


def published(router: Router) -> dict[Host, State]:
    return {host: state for bulletin in fake_exchange(router.place).bulletins() if bulletin.origin.name != "r2"
            for host, state in bulletin.verdicts.items()}


def test_a_relay_can_say_nothing_of_who_is_no_host_of_this_site(router: Router) -> None:
    say(router, 1, [])
    router.round()
    say(router, 2, [*STRANGE, OTHER])
    router.round()
    router.round(61.0)
    assert published(router) == {OTHER: State.SUSPECT}
    assert set(router.database.verdicts(router.now_s)) == set(volumes_of(router.database)) == {OTHER}
    assert router.database.rows("SELECT host FROM reported WHERE host != ''") == [(OTHER,)]


def test_nor_can_another_router(router: Router) -> None:
    tell(router, 1, {})
    router.round()
    tell(router, 2, {host: Tried(50, 50) for host in (*STRANGE, OTHER)})
    router.round()
    router.round()
    assert published(router) == {OTHER: State.COMPROMISED}


def test_of_hosts_in_no_inventory_only_so_many_are_believed_and_that_is_told(
        router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearsay, "MOST_STRANGERS", 5)
    say(router, 1, [])
    router.round()
    for number in range(2, 6):
        say(router, number, [Host(f"198.51.100.{10 * number + n}") for n in range(10)])
        router.now_s += 1.0
        faults = router.controller.round(router.now_s).faults
    assert "more than 5 hosts" in faults["hearsay"]
    say(router, 6, [WEB, Host("198.51.100.20")])
    for _ in range(2):
        router.now_s += 1.0
        router.controller.round(router.now_s)
    assert len(published(router)) == 5 + len({WEB, WEB6}), "the inventory always has room"
    for n in range(6):
        router.kernel.packet(Host("198.51.100.99"), f"203.0.113.{n}")
    router.controller.round(router.now_s + 1.0)
    assert published(router)[Host("198.51.100.99")] is State.COMPROMISED, "and so has whoever tries"


def test_a_router_does_not_leave_a_bulletin_that_nobody_would_take(
        router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.core.documents.MAX_ENTRIES", 5)
    for n in range(6):
        router.kernel.packet(OTHER, f"203.0.113.{n}")
    say(router, 1, [])
    router.round()
    say(router, 2, [Host(f"198.51.100.{n}") for n in range(100, 105)])
    router.round()
    router.round()
    states = published(router)
    assert len(states) == 5
    assert states[OTHER] is State.COMPROMISED, "the worst are named"


@pytest.mark.parametrize("count", [LARGEST, LARGEST // 2])
def test_no_count_is_too_large_to_be_written_down(router: Router, count: int) -> None:
    """SQLite has no greater integer, and a machine's keys are added up."""
    say(router, 1, [WEB, WEB6], 0)
    tell(router, 1, {})
    router.round()
    for number in range(2, 5):
        say(router, number, [WEB, WEB6], count if number % 2 == 0 else 0)
        tell(router, number, {host: Tried(count if number % 2 == 0 else 1, 0) for host in (WEB, WEB6)})
        router.round(30.0)
    router.stop_and_start()
    router.round(61.0)


def test_a_report_has_no_more_clients_than_a_relay_leaves() -> None:
    clients = {Host(f"2001:db8:0:{n:x}::/64"): Client(Tier.NORMAL, 1, 0, 0) for n in range(1001)}
    with pytest.raises(ValueError, match="too many"):
        decode_report(encode_report(Report(Origin("relay", 1, 1), 30.0, clients)))
