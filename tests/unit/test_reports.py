"""What relays report is weighed once, whenever the router is killed or started again."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from egressguard.config import Site
from egressguard.controller import Controller
from egressguard.core import detection
from egressguard.core.documents import Client, Origin, Report
from egressguard.core.errors import DatabaseError
from egressguard.core.hosts import Host
from egressguard.core.settings import Inside, Machine, Sender, Settings
from egressguard.core.verdict import Tier
from egressguard.core.volumes import Volume
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.relay_records import volumes_of
from tests.fakes import FakeKernel, fake_exchange

WEB, WEB6, OTHER = Host("198.51.100.12"), Host("2001:db8:0:12::/64"), Host("198.51.100.13")
MACHINES = (Machine("web2", (ip_address("198.51.100.12"), ip_address("2001:db8:0:12::2"))),
            Machine("web3", (ip_address("198.51.100.13"),)))
SETTINGS = Settings(
    inside=(Inside(("web",), (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:12::/64"))),), host=MACHINES)


class Router:
    """A controller that hears one relay; `kill` is a SIGKILL and a new start."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s, self.settings = folder, 1000.0, SETTINGS
        self.kernel, self.place = FakeKernel(), dict[tuple[str, str], str]()
        self.start()

    def start(self) -> None:
        self.database = Database(self.folder / "router.db", "boot")
        site = Site(self.settings, Path("egressguard.nft"))
        self.enforcement = Enforcement(site, self.kernel, self.database, "boot")
        self.controller = Controller(self.enforcement, self.kernel, self.database, lambda: fake_exchange(self.place))
        self.controller.start(self.now_s)

    def kill(self) -> None:
        self.database.close()
        self.start()

    def stop_and_start(self) -> None:
        self.controller.close(self.now_s)
        self.kill()

    def round(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        assert self.controller.round(self.now_s).faults == {}

    def report(self, sequence: int, refused: dict[Host, int], epoch: int = 1) -> None:
        """So many recipients of each client were refused since the relay's epoch began."""
        clients = {host: Client(Tier.NORMAL, 40, 0, 0, {}, 4 * n, n) for host, n in refused.items()}
        fake_exchange(self.place).report(Report(Origin("relay", epoch, sequence), 30.0, clients))

    def refused(self) -> dict[Host, int]:
        """What was written down of each machine, in all."""
        return {host: sum(v.refused for v in windows.values()) for host, windows in volumes_of(self.database).items()}


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> dict[Host, int]:
    """How many refused recipients the judge was told of, by machine."""
    found: dict[Host, int] = {}
    real = detection.judge_reports

    def judged(previous, volumes: dict[Host, Volume], *rest):  # type: ignore[no-untyped-def]
        for host, volume in volumes.items():
            found[host] = found.get(host, 0) + volume.refused
        return real(previous, volumes, *rest)

    monkeypatch.setattr(detection, "judge_reports", judged)
    return found


def test_what_a_relay_says_while_the_router_is_down_is_weighed(router: Router, weighed: dict[Host, int]) -> None:
    router.report(1, {WEB: 5, OTHER: 0})
    router.round()
    assert weighed == {}, "counting begins with the first report"
    router.report(2, {WEB: 7, WEB6: 1, OTHER: 0})
    router.round()
    assert weighed == {WEB: 3}
    router.stop_and_start()
    router.report(3, {WEB: 11, WEB6: 1, OTHER: 2})
    router.round()
    router.round()
    router.stop_and_start()
    router.round()
    assert weighed == {WEB: 7, OTHER: 2}
    assert router.refused() == {WEB: 7, OTHER: 2}


@pytest.mark.parametrize("seconds", [1.0, 6.0, 61.0])
def test_after_a_kill_exactly_what_was_not_written_down_is_weighed_again(router: Router, seconds: float) -> None:
    """Verdicts and how far reports were weighed are of one transaction, whichever came to be written first."""
    router.report(1, {WEB: 0, OTHER: 0})
    router.round()
    for n in range(2, 10):
        router.report(n, {WEB: n, OTHER: n - 2})
        if n % 3 == 0:
            router.kernel.packet(WEB, "203.0.113.1")
        router.round(seconds)
        if n % 2 == 0:
            router.kill()
    router.round()
    router.controller.close(router.now_s)
    assert router.refused() == {WEB: 9, OTHER: 7}
    once = Router(router.folder / "once")
    for sequence, refused in enumerate(({WEB: 0, OTHER: 0}, {WEB: 9, OTHER: 7}), 1):
        once.report(sequence, refused)
        once.round()
    once.controller.close(once.now_s)
    for host in (WEB, OTHER):
        found, expected = (r.database.verdicts(r.now_s)[host].memory.relays for r in (router, once))
        assert 0.8 * expected < found <= expected + 0.01
    once.database.close()


def test_a_relay_that_starts_anew_begins_at_zero_also_while_the_router_is_down(
        router: Router, weighed: dict[Host, int]) -> None:
    router.report(1, {WEB: 5})
    router.round()
    router.stop_and_start()
    router.report(1, {WEB: 6}, epoch=2)
    router.round()
    assert weighed == {WEB: 6}


def test_a_client_that_a_relay_has_forgotten_begins_at_zero_after_a_restart(
        router: Router, weighed: dict[Host, int]) -> None:
    router.report(1, {WEB: 5, OTHER: 5})
    router.round()
    router.report(2, {OTHER: 5})
    router.round()
    router.stop_and_start()
    router.report(3, {WEB: 6, OTHER: 5})
    router.round()
    assert weighed == {WEB: 6}


def test_an_older_report_is_not_weighed_even_where_its_mark_was_not_written_down(
        router: Router, weighed: dict[Host, int]) -> None:
    router.report(1, {WEB: 2})
    router.round()
    old = dict(router.place)
    router.report(2, {WEB: 5})
    router.round()
    router.stop_and_start()
    router.place.clear()
    router.place.update(old)
    router.controller._signalling.reports = replace(router.controller._signalling.reports, marks={})
    router.round()
    router.report(3, {WEB: 6})
    router.round()
    assert weighed == {WEB: 4}


def test_a_database_that_refuses_costs_no_report(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    real = router.database.record

    def full(*_: object) -> None:
        raise DatabaseError("database or disk is full")

    router.report(1, {WEB: 0})
    router.round()
    monkeypatch.setattr(router.database, "record", full)
    for n in range(2, 5):
        router.report(n, {WEB: n})
        router.now_s += 61.0
        assert "full" in router.controller.round(router.now_s).faults["database"]
    monkeypatch.setattr(router.database, "record", real)
    router.round(6.0)
    router.kill()
    router.report(5, {WEB: 5})
    router.round()
    router.controller.close(router.now_s)
    assert router.refused() == {WEB: 5}


@pytest.mark.parametrize("before", [replace(SETTINGS, mode="observe"), replace(
    SETTINGS, sender=(Sender("old", (ip_address("198.51.100.12"),), "web"),))], ids=["observe", "a sender"])
def test_who_is_shut_out_by_a_start_may_bring_a_queue(router: Router, before: Settings,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was changed while the daemon was down."""
    following = router.controller._following
    monkeypatch.setattr(type(following), "_in_force", lambda *_: before)
    router.kill()
    router.kernel.packet(WEB, "203.0.113.1")
    router.round()
    assert router.controller._judgement.queued == {WEB}
    monkeypatch.undo()
    router.kill()
    router.kernel.packet(OTHER, "203.0.113.1")
    router.round()
    assert OTHER in router.controller._judgement.queued, "another start does not end the time in which they may"


def test_a_start_as_before_gives_nobody_time(router: Router) -> None:
    for _ in range(2):
        router.kill()
        router.kernel.packet(WEB, "203.0.113.1")
        router.round()
    assert router.controller._judgement.queued == set()


def test_of_a_relay_that_starts_anew_each_client_is_weighed_whether_written_down_or_not(router: Router) -> None:
    router.report(1, {WEB: 0, OTHER: 5})
    router.round()
    router.report(1, {WEB: 1, OTHER: 2}, epoch=2)
    router.kernel.packet(WEB, "203.0.113.1")
    router.round()
    router.kernel.packet(WEB, "203.0.113.2")
    router.round(6.0)  # writes down what concerns WEB
    router.kill()
    assert router.refused() == {WEB: 1}
    router.report(2, {WEB: 1, OTHER: 6}, epoch=2)
    router.round()
    router.controller.close(router.now_s)
    assert router.refused() == {WEB: 1, OTHER: 6}
