"""The round on a fake kernel: what it repairs, what it counts, what it survives."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from egressguard.config import Site
from egressguard.controller import Controller
from egressguard.core import detection
from egressguard.core.attempts import Attempts
from egressguard.core.documents import Client, Origin, Report
from egressguard.core.errors import DatabaseError, EgressguardError, ExchangeError, KernelError
from egressguard.core.hosts import Host
from egressguard.core.policy import desired
from egressguard.core.settings import Inside, Machine, Settings
from egressguard.core.verdict import State, Tier
from egressguard.database import Database, open_database
from egressguard.enforcement import Enforcement
from egressguard.exchange import Exchange
from egressguard.kernel import Ruleset
from egressguard.kernel.sinkhole import Listener, Proof
from tests.fakes import FakeKernel, fake_exchange

WEB, WEB6 = Host("198.51.100.12"), Host("2001:db8:0:12::/64")
SETTINGS = Settings(
    inside=(Inside(("web",), (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:12::/64"))),),
    host=(Machine("web2", (ip_address("198.51.100.12"), ip_address("2001:db8:0:12::2"))),))
RULES = Path("egressguard.nft")


class Router:
    """A controller with its surroundings; `restart` is a SIGKILL and a new start."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 1000.0
        self.kernel, self.place = FakeKernel(), dict[tuple[str, str], str]()
        self.away = False
        self.start()

    def start(self) -> None:
        self.database = Database(self.folder / "router.db", "boot")
        self.enforcement = Enforcement(Site(SETTINGS, RULES), self.kernel, self.database, "boot")
        self.controller = Controller(self.enforcement, self.kernel, self.database, self.connect)
        self.controller.start(self.now_s)

    def restart(self) -> None:
        self.database.close()
        self.start()

    def connect(self) -> Exchange:
        if self.away:
            raise ExchangeError("the exchange is away")
        return fake_exchange(self.place)

    def round(self, seconds: float = 1.0) -> dict[str, str]:
        self.now_s += seconds
        return self.controller.round(self.now_s).faults

    def attempts(self) -> int:
        return sum(v.attempts for v in self.database.verdicts(self.now_s).values())

    def published(self) -> dict[Host, State]:
        [bulletin] = fake_exchange(self.place).bulletins()
        return dict(bulletin.verdicts)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path)
    yield made
    made.database.close()


def test_start_puts_the_configuration_into_the_kernel(router: Router) -> None:
    assert router.kernel.elements == desired(SETTINGS)


def test_a_quiet_round_writes_nothing(router: Router) -> None:
    router.round()
    before = router.kernel.number
    assert router.round() == {}
    assert router.kernel.number == before


@pytest.mark.parametrize("harm", ["flush", "edit"])
def test_another_tools_change_is_repaired_in_the_next_round(router: Router, harm: str) -> None:
    getattr(router.kernel, harm)()
    assert router.round() == {}
    assert router.kernel.table is not None
    assert router.kernel.table.fingerprint == "whole"
    assert router.kernel.elements == desired(SETTINGS)
    load, exposure = router.database.history()[-2:]
    assert "repair" in load.why
    assert exposure.kind == "exposure"
    assert "by unknown" in exposure.why


def test_a_changed_set_is_put_right_and_nothing_else_is_touched(router: Router) -> None:
    router.kernel.elements["inside_if"] = frozenset({("wan",)})
    router.kernel.number += 1
    loads = len(router.kernel.loads)
    router.round()
    assert router.kernel.elements == desired(SETTINGS)
    assert len(router.kernel.loads) == loads


def test_a_change_without_an_event_is_found_by_the_periodic_comparison(router: Router) -> None:
    router.round()
    router.kernel.elements["allow4"] = frozenset({("web", "198.51.100.12")})
    router.round(6.0)
    assert router.kernel.elements == desired(SETTINGS)


def test_another_versions_table_is_refused_and_left_alone(tmp_path: Path) -> None:
    kernel, database = FakeKernel(), Database(tmp_path / "x.db", "boot")
    kernel.table = Ruleset(9, False, frozenset({"ruleset_v99"}), {}, "theirs")
    with pytest.raises(KernelError, match="another version"):
        Enforcement(Site(SETTINGS, RULES), kernel, database, "boot").load(0.0, "start")
    assert kernel.loads == []
    database.close()


def test_an_earlier_versions_table_is_replaced_and_history_says_so(tmp_path: Path) -> None:
    kernel, database = FakeKernel(), Database(tmp_path / "x.db", "boot")
    kernel.table = Ruleset(9, False, frozenset({"ruleset_v0"}), {}, "theirs")
    enforcement = Enforcement(Site(SETTINGS, RULES), kernel, database, "boot")
    assert not enforcement.loaded()
    enforcement.load(0.0, "start")
    assert enforcement.loaded()
    assert kernel.elements == desired(SETTINGS)
    assert "an earlier version's and was replaced" in database.history()[-1].why
    database.close()


def test_attempts_become_a_verdict_under_every_key_of_the_machine(router: Router) -> None:
    for n in range(4):
        router.kernel.packet(WEB, f"203.0.113.{n}")
        router.kernel.packet(WEB6, f"2001:db8:ffff::{n}")
    router.round()
    assert router.published() == {WEB: State.COMPROMISED, WEB6: State.COMPROMISED}
    assert [e.after for e in router.database.history(WEB)] == ["suspect", "compromised"]


@pytest.mark.parametrize("killed_after", range(8))
def test_a_kill_between_any_two_rounds_loses_and_repeats_no_attempt(router: Router, killed_after: int) -> None:
    for n in range(8):
        router.kernel.packet(WEB, f"203.0.113.{n}")
        router.round()
        if n == killed_after:
            router.kernel.packet(WEB, "203.0.113.99")
            router.restart()
    router.restart()
    router.round()
    assert router.attempts() == 9


def mailed(router: Router, domains: int) -> None:
    """A relay tells of a host that has mailed to so many domains."""
    for sequence, accepted in ((1, 0), (2, 9)):
        fake_exchange(router.place).report(Report(Origin("relay", 1, sequence), 30.0, {
            WEB: Client(Tier.NORMAL, 40, accepted, 0, {}, accepted, 0, 1, domains)}))
        router.round()


def test_a_host_that_is_not_decided_on_is_limited_and_no_verdict_until_a_restart_and_after(router: Router) -> None:
    mailed(router, 9)
    for n in range(12):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    for _ in range(2):
        router.round(6.0)
        assert router.published() == {WEB: State.COMPROMISED, WEB6: State.COMPROMISED}
        assert router.database.verdicts(router.now_s)[WEB].state is State.CLEAN
        router.restart()
    assert router.database.history(WEB) == []
    router.round(1800.0)
    router.round()
    assert router.published() == {}, "half an hour without another new destination"


def test_what_relays_are_told_is_recorded_and_explained_in_the_same_round(router: Router) -> None:
    mailed(router, 9)
    for n in range(12):
        router.kernel.packet(WEB, f"203.0.113.{n}")
        router.round()
        if router.published():
            break
    assert router.attempts() == n + 1
    kept = router.database.explanation(WEB)
    assert kept is not None
    assert kept[1] == router.now_s


@pytest.mark.parametrize("seen", [True, False], ids=["after a round", "before the next round"])
def test_a_release_outlives_a_kill_and_a_reboot(router: Router, seen: bool) -> None:
    """The kernel's table is new then, so nothing but the verdict's memory knows the destinations."""
    def tried() -> None:
        for n in range(12):
            router.kernel.packet(WEB, f"203.0.113.{n}")
    tried()
    router.round()
    assert router.published()[WEB] is State.COMPROMISED
    router.round()
    tried()
    router.database.end_orders([], WEB, "cleaned", router.now_s)
    if seen:
        router.round()
    router.restart()
    router.round()
    assert router.published() == {}
    router.kernel.flush()
    router.restart()
    tried()
    router.round()
    assert router.database.verdicts(router.now_s)[WEB].state is State.CLEAN, "the same destinations"
    for n in range(100, 112):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    router.round()
    assert router.database.verdicts(router.now_s)[WEB].state is State.COMPROMISED


def test_a_release_forgives_what_was_counted_while_no_daemon_ran(router: Router) -> None:
    for n in range(12):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    router.round()
    for n in range(50, 80):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    router.database.end_orders([], WEB, "cleaned", router.now_s)
    router.restart()
    router.round()
    assert router.published() == {}
    assert router.attempts() == 42


def test_a_new_table_counts_from_zero_even_when_it_outgrows_the_old_one(router: Router) -> None:
    router.kernel.packet(WEB, "203.0.113.1")
    router.round()
    router.kernel.flush()
    router.round()
    for n in range(5):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    router.round()
    assert router.attempts() == 6


def test_a_database_that_refuses_stops_nothing_and_misses_nothing(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    real = router.database.record

    def full(*_: object) -> None:
        raise DatabaseError("database or disk is full")

    monkeypatch.setattr(router.database, "record", full)
    for n in range(6):
        router.kernel.packet(WEB, f"203.0.113.{n}")
        assert "full" in router.round()["database"]
    assert router.published()[WEB] is State.COMPROMISED
    assert "full" in router.round()["database"], "the fault stands until what it cost is recorded"
    monkeypatch.setattr(router.database, "record", real)
    assert router.round() == {}
    assert router.attempts() == 6
    router.restart()
    router.kernel.packet(WEB, "203.0.113.9")
    router.round()
    assert router.attempts() == 7
    assert [e.after for e in router.database.history(WEB)] == ["suspect", "compromised"]


@pytest.mark.parametrize(("harm", "told"), [("flush", "the table was gone"), ("edit", "the table was edited"), ("", None)])
def test_a_reload_hides_nothing_that_was_done_just_before(router: Router, harm: str, told: str | None) -> None:
    """The new rules put it right unseen; from when to when the port may have been open is told all the same."""
    router.round()
    good_s = router.now_s
    if harm:
        getattr(router.kernel, harm)()
    router.controller.reconfigure(Site(replace(SETTINGS, mode="observe"), RULES), router.now_s)
    assert router.round() == {}
    router.round()
    exposures = [e.exposure for e in router.database.exposures(9)]
    assert [(e["wrong"], e["start_s"]) for e in exposures if e] == ([(told, good_s)] if told else [])


def test_a_full_database_during_a_repair_does_not_repeat_the_repair(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DatabaseError("database or disk is full")

    monkeypatch.setattr(router.database, "event", full)
    router.kernel.flush()
    router.round()
    loads = len(router.kernel.loads)
    router.round()
    router.round()
    assert len(router.kernel.loads) == loads
    assert router.kernel.elements == desired(SETTINGS)


def test_an_exchange_that_is_away_stops_nothing_and_is_told_later(router: Router) -> None:
    router.away = True
    router.restart()
    for n in range(6):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    assert router.round() == {"exchange": "the exchange is away"}
    router.away = False
    assert router.round() == {}
    assert router.published()[WEB] is State.COMPROMISED


def test_a_kernel_that_does_not_answer_is_a_fault_and_heals(router: Router) -> None:
    router.kernel.fails = "the kernel did not answer"
    assert set(router.round()) == {"rules", "kernel"}
    router.kernel.fails = None
    assert router.round() == {}


def test_verdicts_are_published_again_before_they_grow_old(router: Router) -> None:
    router.round()
    [first] = fake_exchange(router.place).bulletins()
    router.round()
    assert fake_exchange(router.place).bulletins() == [first]
    router.round(SETTINGS.signal_lifetime_s / 3)
    [second] = fake_exchange(router.place).bulletins()
    assert second.origin.sequence == first.origin.sequence + 1


def test_a_relays_report_is_noted_when_it_is_first_seen(router: Router) -> None:
    router.round()
    report = Report(Origin("relay", 1, 1), 30.0, {WEB: Client(Tier.NORMAL, 40, 1, 0)})
    fake_exchange(router.place).report(report)
    router.now_s += 1
    assert router.controller.round(router.now_s).reports == {"relay": router.now_s}
    seen_s = router.now_s
    router.now_s += 5
    assert router.controller.round(router.now_s).reports == {"relay": seen_s}


def test_a_reload_that_fails_changes_nothing(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise KernelError("no such rules")

    with monkeypatch.context() as patch:
        patch.setattr(router.kernel, "load", refused)
        patch.setattr(router.kernel, "rebuild", refused)
        with pytest.raises(KernelError):
            router.controller.reconfigure(Site(replace(SETTINGS, mode="observe"), RULES), router.now_s)
    router.round(10.0)
    assert router.kernel.elements == desired(SETTINGS)


@pytest.mark.parametrize("key", ["router", "exchange", "database", "runtime_directory"])
def test_what_cannot_change_while_running_is_refused(router: Router, key: str) -> None:
    with pytest.raises(EgressguardError, match=f"{key} cannot change"):
        router.controller.reconfigure(Site(replace(SETTINGS, **{key: "/other"}), RULES), router.now_s)  # type: ignore[arg-type]


def test_a_damaged_table_is_replaced(router: Router) -> None:
    router.kernel.edit()
    router.kernel.damaged = True
    assert router.round() == {}
    assert router.kernel.elements == desired(SETTINGS)
    assert "its counts are lost" in router.database.history()[-2].why


def test_memory_of_hosts_is_bounded(router: Router) -> None:
    router.kernel.packet(WEB, "203.0.113.1")
    router.round()
    assert len(router.controller._judgement) == 1
    router.kernel.flush()
    router.round()
    router.round(100.0)
    assert len(router.controller._judgement) == 0


def test_new_settings_are_applied_as_a_difference(router: Router) -> None:
    router.kernel.packet(WEB, "203.0.113.1")
    router.round()
    router.controller.reconfigure(Site(replace(SETTINGS, mode="observe"), RULES), router.now_s)
    assert router.kernel.elements["observed_family"] == {("ipv4",), ("ipv6",)}
    router.kernel.packet(WEB, "203.0.113.2")
    router.round(5.0)
    assert router.attempts() == 2


def test_a_report_that_is_played_back_is_no_news_after_a_restart_either(router: Router) -> None:
    def left(epoch: int, sequence: int) -> None:
        fake_exchange(router.place).report(
            Report(Origin("relay", epoch, sequence), 30.0, {WEB: Client(Tier.NORMAL, sequence, 1, 0)}))

    left(2, 7)
    router.round()
    router.round(10.0)  # long enough for the marks to be written down
    router.restart()
    for epoch, sequence in ((2, 6), (1, 99)):
        left(epoch, sequence)
        router.round()
        assert router.controller._signalling.reports.leases == {}
    left(2, 8)
    router.round()
    assert router.controller._signalling.reports.leases["relay"].document.origin.sequence == 8


def test_every_start_is_a_newer_epoch_even_when_the_clock_went_back(
        router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    for wall_s in (2e9, 1e9, 1.5e9):
        monkeypatch.setattr("time.time", lambda wall_s=wall_s: wall_s)
        router.restart()
        router.round()
        [bulletin] = fake_exchange(router.place).bulletins()
        epochs.append(bulletin.origin.epoch)
    assert epochs == [2_000_000_000, 2_000_000_001, 2_000_000_002]


def test_an_exchange_that_is_away_is_not_asked_in_every_round(router: Router) -> None:
    asked = []
    connect = router.connect

    def counted() -> Exchange:
        asked.append(router.now_s)
        return connect()

    router.controller._signalling._connect = counted
    router.away = True
    for _ in range(20):
        assert "away" in router.round(0.25)["exchange"]
    assert len(asked) <= 6
    router.away = False
    assert [router.round(0.25) for _ in range(5)][-1] == {}


def test_a_document_that_is_left_out_is_named_as_long_as_it_is_there(router: Router) -> None:
    router.place["report", "relay"] = "{"
    assert "the report of 'relay'" in router.round()["exchange"]
    assert "the report of 'relay'" in router.round()["exchange"]
    del router.place["report", "relay"]
    assert router.round() == {}


@pytest.mark.parametrize("harm", ["damaged", "later"])
def test_a_history_that_cannot_be_used_heals_by_itself_once_it_can(router: Router, harm: str) -> None:
    path = router.folder / "healing.db"
    if harm == "damaged":
        path.write_bytes(b"\0garbage" * 1000)
    else:
        with sqlite3.connect(path) as later:
            later.execute("PRAGMA user_version = 99")
        later.close()
    database, fault = open_database(path, "boot")
    site = Site(replace(SETTINGS, database=str(path)), RULES)
    controller = Controller(Enforcement(site, router.kernel, database, "boot"), router.kernel, database,
                            router.connect, fault)
    controller.start(1000.0)
    for n in range(12):
        router.kernel.packet(WEB, f"203.0.113.{n}")
    assert "in memory" in controller.round(1001.0).faults["database"]
    assert "in memory" in controller.round(1062.0).faults["database"], "it is as it was: said as long as it is true"
    path.unlink()
    controller.round(1123.0)
    assert controller.round(1124.0).faults == {}
    kept = Database(path, "boot", read_only=True)
    assert kept.verdicts(1124.0)[WEB].attempts == 12
    assert [e.after for e in kept.history(WEB)] == ["suspect", "compromised"]
    kept.close()
    router.kernel.packet(WEB, "203.0.113.99")
    controller.round(1131.0)  # what was counted is recorded every five seconds
    again = Database(path, "boot", read_only=True)
    assert again.verdicts(1131.0)[WEB].attempts == 13
    again.close()
    database.close()


def test_a_handshake_that_ends_late_is_joined_with_the_hosts_next_attempts(
        router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules count the SYN; the sinkhole sees the handshake afterwards, perhaps in the next round."""
    came: list[Proof] = []
    seen: list[Attempts] = []
    judge = detection.judge

    def listened(_: Listener, __: object) -> list[Proof]:
        found, came[:] = came.copy(), []
        return found

    def judged(previous, evidence, *rest, **more):  # type: ignore[no-untyped-def]
        seen.extend(evidence.values())
        return judge(previous, evidence, *rest, **more)

    monkeypatch.setattr(Listener, "proofs", listened)
    monkeypatch.setattr(detection, "judge", judged)
    router.kernel.packet(WEB, "203.0.113.1")
    router.round()
    came.append(Proof("198.51.100.12", "203.0.113.1"))
    router.round()
    router.kernel.packet(WEB, "203.0.113.2")
    router.round()
    router.round()
    assert [(found.count, found.verified) for found in seen] == [(1, 0), (1, 1)]


def test_an_exchange_that_stood_and_failed_is_tried_anew_in_the_next_round(
        router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost packets look like that: a second of waiting would be added to them."""
    assert "exchange" not in router.round()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "changed", lambda _: (_ for _ in ()).throw(ExchangeError("silent")))
        assert "silent" in router.round()["exchange"]
    assert "exchange" not in router.round(0.25)


def test_a_table_that_is_read_while_somebody_loads_it_is_no_exposure(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel hands it over half old, half new; a moment later it is whole."""
    router.round()
    whole = router.kernel.ruleset
    readings = iter(["half old, half new"])

    def half() -> Ruleset | None:
        found = whole()
        return replace(found, fingerprint=next(readings, found.fingerprint)) if found is not None else None

    monkeypatch.setattr(router.kernel, "ruleset", half)
    router.kernel.number += 1
    router.round()
    router.round(10.0)
    assert next(readings, None) is None, "it was read"
    assert [e.exposure for e in router.database.exposures(9)] == []
    router.kernel.edit()
    router.round()
    assert len(router.database.exposures(9)) == 1, "what stays wrong is wrong"
