"""Repetitions may be weighed later: nothing is lost or counted twice, and no verdict comes later for it."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.config import Site
from egressguard.controller import Controller
from egressguard.core import attempts, detection, waiting
from egressguard.core.attempts import Attempts, Counters, Totals
from egressguard.core.hosts import Host, host_of
from egressguard.core.memory import NO_VISITS, visited
from egressguard.core.settings import Detection, Inside, Machine, Settings
from egressguard.core.verdict import State, Verdict
from egressguard.core.volumes import Volume
from egressguard.core.waiting import SHARE, Waiting
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.kernel.sinkhole import Listener, Proof
from tests.fakes import FakeKernel, fake_exchange

NETWORK = ip_network("198.51.100.0/24")
MACHINES = tuple(Machine(f"web{n}", (NETWORK[n],)) for n in range(1, 41))
HOSTS = [host_of(machine.addresses[0]) for machine in MACHINES]
SEVERAL = Machine("two", (NETWORK[100], ip_address("2001:db8:0:100::1")))
SETTINGS = Settings(inside=(Inside(("web",), (NETWORK,)),), host=(*MACHINES, SEVERAL))
FORMER = "203.0.113.250"


class Router:
    """A controller on a fake kernel, in a site where many try again and few may be weighed in a round."""

    def __init__(self, folder: Path, settings: Settings = SETTINGS) -> None:
        self.folder, self.settings, self.now_s, self.sent = folder, settings, 1000.0, 0
        self.kernel, self.place = FakeKernel(), dict[tuple[str, str], str]()
        self.start()

    def start(self) -> None:
        self.database = Database(self.folder / "router.db", "boot")
        enforcement = Enforcement(Site(self.settings, Path("egressguard.nft")), self.kernel, self.database, "boot")
        self.controller = Controller(enforcement, self.kernel, self.database, lambda: fake_exchange(self.place))
        self.controller.start(self.now_s)

    def kill(self) -> None:
        self.database.close()
        self.start()

    def again(self, hosts: list[Host] = HOSTS) -> None:
        """Each tries once more what it has always tried."""
        for host in hosts:
            self.kernel.packet(host, FORMER)
            self.sent += 1

    def round(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        assert self.controller.round(self.now_s).faults == {}

    def verdict(self, host: Host) -> Verdict:
        return self.database.verdicts(self.now_s)[host]

    def recorded(self) -> int:
        return sum(v.attempts for v in self.database.verdicts(self.now_s).values())


@pytest.fixture
def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    monkeypatch.setattr(waiting, "AT_ONCE", 2)
    made = Router(tmp_path)
    yield made
    made.database.close()


def test_what_waits_is_weighed_within_a_while_and_counts_in_full(router: Router) -> None:
    for _ in range(5):
        router.again()
        router.round()
    assert len(router.controller._counting._waiting) > len(HOSTS) // 2
    for _ in range(len(HOSTS)):
        router.round()
    assert len(router.controller._counting._waiting) == 0
    router.round(5.0)
    assert router.recorded() == router.sent


def test_where_few_try_nothing_waits(tmp_path: Path) -> None:
    router = Router(tmp_path)
    for _ in range(5):
        router.again()
        router.round()
    assert len(router.controller._counting._waiting) == 0
    router.database.close()


@pytest.mark.parametrize("killed_after", [1, 4, 7, 12])
def test_a_kill_while_attempts_wait_loses_and_repeats_none(router: Router, killed_after: int) -> None:
    for n in range(14):
        router.again(HOSTS[n:])
        router.round()
        if n == killed_after:
            router.again()
            router.kill()
    router.controller.close(router.now_s)
    assert router.recorded() == router.sent


def test_a_new_table_while_attempts_wait_costs_none(router: Router) -> None:
    for _ in range(3):
        router.again()
        router.round()
    router.kernel.flush()
    router.round()
    assert router.recorded() == router.sent, "they are in no counter any more, so they are recorded at once"
    router.kill()
    router.again()
    router.round()
    router.controller.close(router.now_s)
    assert router.recorded() == router.sent


def test_a_counter_that_begins_anew_while_its_attempts_wait_costs_none(router: Router) -> None:
    """As when a host is taken out of the inventory and put back."""
    for _ in range(3):
        router.again()
        router.round()
    host = HOSTS[-1]
    assert host in router.controller._counting._waiting.everything()
    router.kernel.attempts[host] = 0
    router.again()
    router.round(5.0)
    router.kill()
    router.round()
    router.controller.close(router.now_s)
    assert router.recorded() == router.sent


def test_a_new_destination_is_judged_at_once_with_all_that_waited(router: Router) -> None:
    for _ in range(3):
        router.again()
        router.round()
    host = HOSTS[-1]
    assert host in router.controller._counting._waiting.everything()
    for n in range(20):
        router.kernel.packet(host, f"203.0.113.{n}")
    router.again()
    router.round()
    [bulletin] = fake_exchange(router.place).bulletins()
    assert bulletin.verdicts == {host: State.COMPROMISED}
    found = router.verdict(host)
    assert found.attempts == 24
    old, settings = detection.judge({}, {host: Attempts(1, (FORMER,))}, Detection(), 0.0), Detection()
    old |= detection.judge(old, {host: Attempts(2, going_on=2)}, settings, 2.0)
    old |= detection.judge(old, {host: Attempts(21, tuple(f"203.0.113.{n}" for n in range(20)))}, settings, 3.0)
    assert found.score == pytest.approx(old[host].score, abs=0.01)


def test_what_nobody_could_record_is_judged_at_once(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        router.again()
        router.round()
    real = FakeKernel.totals
    monkeypatch.setattr(FakeKernel, "totals", lambda kernel: replace(real(kernel), fanout_overflow=20))
    for _ in range(20):
        router.kernel.attempts[HOSTS[-1]] += 1
    router.round()
    [bulletin] = fake_exchange(router.place).bulletins()
    assert bulletin.verdicts == {HOSTS[-1]: State.COMPROMISED}


def test_a_visit_after_a_while_is_judged_at_once(router: Router) -> None:
    for _ in range(3):
        router.again()
        router.round()
    router.again()
    router.round(60.0)
    router.round(5.0)
    assert {v.memory.visits[2] for v in router.database.verdicts(router.now_s).values()} == {1}, "all came LATE once"


def test_a_host_that_may_have_a_queue_never_waits(router: Router) -> None:
    router.controller._judgement._settling_until_s = float("inf")
    router.again(HOSTS[-1:])
    router.round()
    router.controller._judgement._settling_until_s = 0.0
    assert router.controller._judgement.queued == {HOSTS[-1]}
    for _ in range(3):
        router.again()
        router.round()
        assert HOSTS[-1] not in router.controller._counting._waiting.everything()


def test_a_host_that_has_proved_itself_never_waits(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    host = HOSTS[-1]
    for _ in range(3):
        router.again()
        router.round()
    monkeypatch.setattr(Listener, "proofs", lambda *_: [Proof(host, FORMER)])
    router.again()
    router.round()  # the handshake ends after the SYN was read
    router.again()
    router.round()
    router.controller.close(router.now_s)
    assert router.verdict(host).memory.verified > 0


def test_what_waited_is_weighed_at_its_time_but_takes_no_verdict_back_in_time() -> None:
    host, settings = HOSTS[0], Detection()
    verdicts = detection.judge({}, {host: Attempts(1, (FORMER,))}, settings, 100.0)
    verdicts |= detection.judge_reports(verdicts, {host: Volume(recipients=1, refused=1)}, settings, 110.0)
    found = detection.judge(verdicts, {host: Attempts(5, going_on=5)}, settings, 105.0)[host]
    assert (found.at_s, found.memory.last_s, found.attempts) == (110.0, 105.0, 6)


def test_the_keys_of_one_machine_wait_and_are_weighed_together(router: Router) -> None:
    keys = [host_of(address) for address in SEVERAL.addresses]
    for _ in range(2):
        router.again([keys[0], *HOSTS, keys[1]])
        router.round()
    waits = set(router.controller._counting._waiting.everything())
    assert waits.isdisjoint(keys) or waits.issuperset(keys)
    router.controller.close(router.now_s)
    assert router.verdict(keys[0]).attempts == 4
    assert keys[1] not in router.database.verdicts(router.now_s)


def test_nobody_waits_longer_than_his_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AT_ONCE", 1)
    waits, hosts = Waiting(), [Host(f"h{n}") for n in range(600)]
    since: dict[Host, int] = {}
    for now in range(200):
        grown = dict.fromkeys(hosts, 1)
        waits.put(grown, waits.going_on(grown, now))
        waits.seen(grown, now)
        for host in waits.everything():
            since.setdefault(host, now)
        for host in waits.due():
            assert now - since.pop(host) <= SHARE + 1
        waits.taken(waits.due(), {})


ROUNDS = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(ROUNDS, st.integers(0, 6))
def test_weighed_together_or_one_after_the_other_is_the_same_but_for_the_decay_meanwhile(
        counts: list[int], destinations: int) -> None:
    host, now_s, settings = HOSTS[0], 100.0, Detection()
    first = Attempts(destinations + 1, tuple(f"203.0.113.{n}" for n in range(destinations)))
    before = detection.judge({}, {host: first}, settings, now_s)
    singly = dict(before)
    rounds = [(now_s + 1 + n, count) for n, count in enumerate(c for c in counts if c)]
    for at_s, count in rounds:
        singly |= detection.judge(singly, {host: Attempts(count)}, settings, at_s)
    if not rounds:
        return
    together = detection.judge(before, {host: Attempts(sum(c for _, c in rounds), going_on=len(rounds))}, settings,
                               rounds[-1][0])
    one, other = singly[host], together[host]
    assert (one.state, one.attempts, one.since_s, one.memory.visits, one.memory.last_s, one.memory.gaps) == (
        other.state, other.attempts, other.since_s, other.memory.visits, other.memory.last_s, other.memory.gaps)
    assert other.score == pytest.approx(one.score, rel=0.01, abs=0.01)


@given(st.integers(0, 3), st.integers(0, 200))
def test_many_visits_at_once_are_as_many_one_after_the_other(kind: int, times: int) -> None:
    one = other = visited(visited(NO_VISITS, 1, 7), 2, 5)
    for _ in range(times):
        one = visited(one, kind)
    assert one == visited(other, kind, times)


VALUES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), max_size=6)


@given(VALUES, VALUES)
def test_growth_is_the_same_whichever_way_it_is_found(before: dict[str, int], now: dict[str, int]) -> None:
    found = Counters(before, 0.0).growth(now, 1.0, 10.0)
    assert found == {key: by for key, value in now.items() if (by := attempts.increase(before.get(key), value))}
    assert Counters(now, 0.0).growth(dict(now), 1.0, 10.0) == {}


def test_totals_alone_are_no_attempts() -> None:
    assert attempts.grown(attempts.Baseline(), attempts.Sample(0.0, Totals(attempts=9))) == {}
