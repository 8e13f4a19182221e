"""The sequential test: what it takes to be suspected, to be compromised, to be forgiven; and what no attacker
can make of it.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core import detection, memory, queue, weights
from egressguard.core.attempts import Attempts
from egressguard.core.causes import likeliest
from egressguard.core.detection import judge, judge_reports, release
from egressguard.core.hosts import Host
from egressguard.core.memory import NOTHING, SUMS, bit_of, destinations_of, freeze, salt_from, thaw
from egressguard.core.queue import Queue
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause, State, Verdict, states_by_key, transitions
from egressguard.core.volumes import Volume

WEB = Host("198.51.100.12")
SETTINGS = Detection()
W = weights.weights(SETTINGS)


def names(first: int, count: int) -> tuple[str, ...]:
    return tuple(f"2001:db8:ffff::{n:x}" for n in range(first, first + count))


def new(count: int, first: int = 0) -> Attempts:
    return Attempts(count, names(first, count))


def again(count: int = 1) -> Attempts:
    return Attempts(count, (), 0, names(0, 1))


def after(rounds: Iterable[Attempts], period_s: float = 1.0, settings: Detection = SETTINGS) -> Verdict:
    verdicts: dict[Host, Verdict] = {}
    for number, attempts in enumerate(rounds):
        verdicts |= judge(verdicts, {WEB: attempts}, settings, number * period_s)
    return verdicts[WEB]


@pytest.mark.parametrize(("destinations", "state"), [
    (1, State.CLEAN), (4, State.CLEAN), (5, State.SUSPECT), (6, State.COMPROMISED), (200, State.COMPROMISED),
])
def test_new_destinations_decide(destinations: int, state: State) -> None:
    assert after([new(destinations)]).state is state
    assert after(new(1, n) for n in range(destinations)).state is state


def test_retries_to_one_destination_stay_clean() -> None:
    assert after([new(1), *[again()] * 100]).state is State.CLEAN


def test_a_burst_that_mixes_retries_in_cannot_talk_itself_down() -> None:
    assert after([Attempts(60, names(0, 20))]).state is State.COMPROMISED


@pytest.mark.parametrize("repeats", [1, 15, 10_000])
def test_no_repetition_washes_a_verdict_away(repeats: int) -> None:
    assert after([new(6), *[again()] * repeats], 0.0).state is State.COMPROMISED
    assert after([new(6), again(repeats), again(repeats)]).state is State.COMPROMISED


def test_without_the_cap_on_repetitions_a_bot_would_wash_its_verdict_away(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "CANCELLED_AT_MOST", 1.0)
    assert after([new(6), again(10)]).state is State.CLEAN


def test_a_bot_that_tries_every_destination_twice_is_found() -> None:
    assert after(a for n in range(12) for a in (new(1, n), again())).state is State.COMPROMISED


def test_what_could_not_be_recorded_counts_as_new() -> None:
    assert after([Attempts(60, (), 60)]).state is State.COMPROMISED


def test_the_score_halves_every_half_life_and_the_verdict_falls_late() -> None:
    verdicts = judge({}, {WEB: new(6)}, SETTINGS, 0.0)
    verdict, half_life_s = verdicts[WEB], SETTINGS.half_life_s
    assert verdict.until_s == pytest.approx(half_life_s, rel=0.01), "until half of the bound"
    assert judge(verdicts, {}, SETTINGS, verdict.until_s - 1) == {}, "nothing is judged that cannot change"
    fallen = judge(verdicts, {}, SETTINGS, verdict.until_s + 1)
    assert fallen[WEB].score == pytest.approx(verdict.score / 2, rel=0.01)
    assert fallen[WEB].state is State.SUSPECT
    assert judge(fallen, {}, SETTINGS, fallen[WEB].until_s + 1)[WEB].state is State.CLEAN


def test_a_clock_that_stands_still_or_steps_back_changes_nothing() -> None:
    verdicts = judge({}, {WEB: new(6)}, SETTINGS, 100.0)
    assert judge(verdicts, {WEB: Attempts(0)}, SETTINGS, 50.0)[WEB].score == verdicts[WEB].score


def test_every_state_on_the_way_is_a_step_of_history() -> None:
    verdicts = judge({}, {WEB: new(50)}, SETTINGS, 0.0)
    steps = [(s.before, s.after) for s in transitions({}, verdicts.values())]
    assert steps == [(State.CLEAN, State.SUSPECT), (State.SUSPECT, State.COMPROMISED)]


def test_a_lower_error_rate_asks_for_more_evidence() -> None:
    assert after([new(6)], settings=replace(SETTINGS, false_alarm=1e-6)).state is State.SUSPECT


def test_a_verdict_holds_under_every_key_of_its_machine() -> None:
    six = Host("2001:db8:0:12::/64")
    assert states_by_key([after([new(6)])], {WEB: WEB, six: WEB}) == {
        WEB: State.COMPROMISED, six: State.COMPROMISED}


# Properties

ROUNDS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 3), st.floats(0, 1e6)), max_size=30)


@given(ROUNDS)
def test_scores_stay_finite_and_bounded_and_attempts_add_up(rounds: list[tuple[int, int, int, float]]) -> None:
    verdicts: dict[Host, Verdict] = {}
    now_s, total = 0.0, 0
    for count, destinations, verified, pause_s in rounds:
        now_s, total = now_s + pause_s, total + count
        found = Attempts(count, names(total, min(count, destinations)), 0, names(0, 1), verified,
                         names(total, verified))
        verdicts |= judge(verdicts, {WEB: found}, SETTINGS, now_s, settling=bool(total % 2))
        verdicts |= judge_reports(verdicts, {WEB: Volume(count, verified, count, destinations, 1, destinations)},
                                  SETTINGS, now_s)
        verdict = verdicts[WEB]
        assert math.isfinite(verdict.score)
        assert 0 <= verdict.firm <= verdict.score <= W.ceiling + W.most_from_relays
        assert verdict.until_s >= now_s
    assert not rounds or verdicts[WEB].attempts == total


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 100))
def test_more_new_destinations_never_lower_the_score(some: int, more: int, repeats: int) -> None:
    before = Attempts(some + repeats, names(0, some), 0, names(0, 1))
    less, larger = after([before, Attempts(50)]), after([before, Attempts(50, names(1000, min(more, 50)))])
    assert larger.score >= less.score
    assert after([before, new(more, 1000)]).score >= after([before]).score * 0.999, "one second of decay"


@given(st.lists(st.integers(1, 9), max_size=12), st.randoms())
def test_new_destinations_weigh_the_same_in_any_order_and_in_any_rounds(parts: list[int], random: object) -> None:
    whole = names(0, sum(parts))
    shuffled = list(whole)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    verdicts: dict[Host, Verdict] = {}
    for size in parts:
        part, shuffled = tuple(shuffled[:size]), shuffled[size:]
        verdicts |= judge(verdicts, {WEB: Attempts(size, part)}, SETTINGS, 5.0)
    if parts:
        one = judge({}, {WEB: Attempts(len(whole), whole)}, SETTINGS, 5.0)[WEB]
        assert verdicts[WEB].memory.gained == pytest.approx(one.memory.gained)


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=30))
def test_attempts_alone_never_propose_to_hold_a_host(rounds: list[tuple[int, bool]]) -> None:
    """Attempts can be forged by a neighbour, handshakes and mail through a relay cannot."""
    verdict = after(new(count, 1000 * n) if fresh else again(count) for n, (count, fresh) in enumerate(rounds))
    assert verdict.firm == 0
    assert not verdict.hold


def test_handshakes_do_propose_it() -> None:
    """They come a moment after the attempts that they belong to."""
    assert after([new(20), Attempts(0, verified=20, proven=names(0, 20))]).hold
    assert not after([new(20), Attempts(0, verified=3, proven=names(0, 3))]).hold


def test_attempts_forged_in_the_name_of_a_host_with_a_smarthost_propose_nothing() -> None:
    """Its own program completes handshakes, with a few destinations, as often as it likes."""
    own = Attempts(4, (), 0, names(0, 4), 4, names(0, 4))
    verdict = after([new(4), *[own] * 50, new(200, 1000), *[own] * 50])
    assert verdict.state is State.COMPROMISED, "a forged verdict only tightens"
    assert not verdict.hold


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30))
def test_reports_alone_make_nobody_compromised_and_propose_nothing(reports: list[tuple[int, int]]) -> None:
    verdicts: dict[Host, Verdict] = {}
    for n, (accepted, refused) in enumerate(reports):
        verdicts |= judge_reports(verdicts, {WEB: Volume(accepted, refused, accepted, refused, accepted, 9)}, SETTINGS, n)
    assert not verdicts or verdicts[WEB].state is not State.COMPROMISED
    assert not verdicts or not verdicts[WEB].hold


def test_without_their_cap_reports_alone_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MOST_FROM_RELAYS", 99.0)
    weights.weights.cache_clear()
    refused = {WEB: Volume(0, 0, 0, 50, 0, 9)}
    assert judge_reports({}, refused, SETTINGS, 0.0)[WEB].state is State.COMPROMISED
    monkeypatch.undo()
    weights.weights.cache_clear()
    assert judge_reports({}, refused, SETTINGS, 0.0)[WEB].state is State.SUSPECT


def test_reports_and_attempts_are_one_sum() -> None:
    verdicts = judge_reports({}, {WEB: Volume(5, 0, 5, 20, 0, 2)}, SETTINGS, 0.0)
    assert judge(verdicts, {WEB: new(5)}, SETTINGS, 1.0)[WEB].state is State.COMPROMISED


def test_a_customer_who_mails_well_is_not_suspected() -> None:
    verdicts: dict[Host, Verdict] = {}
    for n in range(500):
        verdicts |= judge_reports(verdicts, {WEB: Volume(20, 1, 25, 1, 1, n)}, SETTINGS, n * 5.0)
    assert verdicts[WEB].state is State.CLEAN


# A mail server's queue

MAILS = {WEB: Volume(100, 0, 100, 1, 5, 40)}


def lost_way(retry_s: float | None, extra: int = 0) -> Verdict:
    """A host that has mailed to 40 domains by a relay tries 80 addresses, and tries them again or not."""
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80 + extra)}, SETTINGS, 3600.0)
    for n in range(1, 13):
        if retry_s is not None:
            verdicts |= judge(verdicts, {WEB: Attempts(80, (), 0, names(0, 80))}, SETTINGS, 3600.0 + n * retry_s)
        else:
            verdicts |= judge(verdicts, {WEB: new(1, 500 + n)}, SETTINGS, 3600.0 + n * 600.0)
    return verdicts[WEB]


def test_a_queue_that_is_retried_is_a_mail_servers() -> None:
    verdict = lost_way(600.0)
    assert verdict.state is State.CLEAN
    assert likeliest(verdict.memory, verdict.state) is Cause.MTA


def test_without_that_hypothesis_the_mail_server_would_be_a_spambot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "WIDELY", 10**9)
    assert lost_way(600.0).state is State.COMPROMISED


def test_a_queue_that_is_never_retried_is_a_spambots() -> None:
    assert lost_way(None).state is State.COMPROMISED


def test_hammering_one_address_pays_for_no_other() -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80)}, SETTINGS, 3600.0)
    for n in range(1, 200):
        verdicts |= judge(verdicts, {WEB: again(50)}, SETTINGS, 3600.0 + n * 30.0)
    assert verdicts[WEB].state is State.COMPROMISED


def test_a_queue_is_finite() -> None:
    assert lost_way(600.0, extra=100).state is State.COMPROMISED


def test_who_goes_on_mailing_by_the_relay_has_not_lost_the_way() -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(20)}, SETTINGS, 3600.0)
    assert verdicts[WEB].state is State.CLEAN
    verdicts |= judge_reports(verdicts, MAILS, SETTINGS, 3900.0)
    verdicts |= judge(verdicts, {WEB: new(1, 900)}, SETTINGS, 3910.0)
    assert verdicts[WEB].state is State.COMPROMISED


def both_doors(seconds: int, told_every_s: int = 5) -> dict[Host, Verdict]:
    """A bot on a host with a mail history: each second a message to a new address directly, and one by the relay."""
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    for n in range(seconds):
        if n and n % told_every_s == 0:
            verdicts |= judge_reports(verdicts, {WEB: Volume(1, told_every_s - 1, 1, 0, 0, 41)}, SETTINGS, 3600.0 + n)
        verdicts |= judge(verdicts, {WEB: new(1, n)}, SETTINGS, 3600.0 + n)
    return verdicts


def test_while_it_may_be_a_queue_or_a_bot_relays_are_told_the_worse_and_people_that_it_is_undecided() -> None:
    assert not both_doors(5)[WEB].undecided
    verdict = both_doors(6)[WEB]
    assert (verdict.state, verdict.undecided) == (State.CLEAN, True)
    assert states_by_key([verdict], {}) == {WEB: State.COMPROMISED}
    assert verdict.cause_told == "spambot or misrouted MTA"


def test_the_doubt_ends_with_the_first_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80)}, SETTINGS, 3600.0)
    assert verdicts[WEB].told is State.COMPROMISED
    verdicts |= judge(verdicts, {WEB: Attempts(80, (), 0, names(0, 80))}, SETTINGS, 3900.0)
    assert (verdicts[WEB].told, verdicts[WEB].undecided) == (State.CLEAN, False)
    verdicts |= judge(verdicts, {WEB: new(5, 500)}, SETTINGS, 3910.0)
    assert verdicts[WEB].told is State.CLEAN, "what comes new to a queue that is proven is its next mail"


def test_the_doubt_ends_half_an_hour_after_the_last_new_destination() -> None:
    verdicts = both_doors(6)
    until_s = verdicts[WEB].until_s
    assert until_s == 3605.0 + queue.DOUBT_S
    assert judge(verdicts, {}, SETTINGS, until_s - 1) == {}
    [verdict] = judge(verdicts, {}, SETTINGS, until_s).values()
    assert (verdict.told, verdict.until_s) == (State.CLEAN, math.inf)


def test_whom_the_site_has_just_shut_out_is_not_limited_for_his_queue() -> None:
    """His mail may go by the relay from now on."""
    verdict = judge({}, {WEB: new(80)}, SETTINGS, 0.0, settling=True)[WEB]
    assert (verdict.state, verdict.undecided) == (State.CLEAN, False)


def test_a_bot_that_uses_both_doors_is_found_by_the_mail_that_goes_on_though_the_relay_puts_it_off() -> None:
    assert both_doors(30)[WEB].state is State.CLEAN
    assert both_doors(50)[WEB].state is State.COMPROMISED


def retried_after_both_doors() -> State:
    """Such a bot tries all that it has tried twice again, after some minutes."""
    verdicts = both_doors(50)
    for at_s in (3900.0, 4200.0):
        verdicts |= judge(verdicts, {WEB: Attempts(50, (), 0, names(0, 50))}, SETTINGS, at_s)
    return verdicts[WEB].told


def test_nor_does_it_acquit_itself_by_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retried_after_both_doors() is State.COMPROMISED
    monkeypatch.setattr(queue, "refuted", queue.closed)
    assert retried_after_both_doors() is not State.COMPROMISED, "the mutant"


def test_without_what_relays_tell_it_would_have_its_whole_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "relays_on", lambda *_: False)
    assert both_doors(100)[WEB].state is State.CLEAN


def test_mail_that_was_on_its_way_when_the_way_was_lost_convicts_nobody() -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(20)}, SETTINGS, 3600.0)
    verdicts |= judge_reports(verdicts, {WEB: Volume(20, 0, 20, 0, 1, 40)}, SETTINGS, 3605.0)
    verdicts |= judge_reports(verdicts, {WEB: Volume(1, 0, 1, 0, 1, 40)}, SETTINGS, 3615.0)
    verdicts |= judge(verdicts, {WEB: new(3, 700)}, SETTINGS, 3680.0)
    assert verdicts[WEB].state is State.CLEAN


def test_mail_that_a_relay_only_puts_off_says_as_much_of_the_way_there() -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(20)}, SETTINGS, 3600.0)
    verdicts |= judge_reports(verdicts, {WEB: Volume(0, 3, 0, 0, 0, 40)}, SETTINGS, 3640.0)
    verdicts |= judge(verdicts, {WEB: new(1, 700)}, SETTINGS, 3641.0)
    assert verdicts[WEB].state is State.COMPROMISED


def test_a_mail_server_that_mails_by_the_relay_again_has_been_repaired() -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80)}, SETTINGS, 3600.0)
    verdicts |= judge(verdicts, {WEB: Attempts(80, (), 0, names(0, 80))}, SETTINGS, 3900.0)
    verdicts |= judge_reports(verdicts, {WEB: Volume(30, 0, 30, 0, 0, 40)}, SETTINGS, 4000.0)
    verdicts |= judge(verdicts, {WEB: new(1, 900)}, SETTINGS, 4100.0)
    assert verdicts[WEB].state is State.CLEAN


@pytest.mark.parametrize(("times", "state"), [(1, State.COMPROMISED), (2, State.CLEAN)])
def test_who_retries_but_once_is_no_mail_server(times: int, state: State) -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80)}, SETTINGS, 0.0)
    for n in range(times):
        verdicts |= judge(verdicts, {WEB: Attempts(80, (), 0, names(0, 80))}, SETTINGS, 600.0 * (n + 1))
    for n in range(times, 12):
        verdicts |= judge(verdicts, {WEB: new(1, 500)}, SETTINGS, 600.0 * (n + 1))
    assert verdicts[WEB].state is state


@pytest.mark.parametrize(("relayed", "state"), [(True, State.CLEAN), (False, State.COMPROMISED)])
def test_a_server_that_has_found_its_way_owes_no_retries(relayed: bool, state: State) -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80)}, SETTINGS, 3600.0)
    verdicts |= judge(verdicts, {WEB: Attempts(80, (), 0, names(0, 80))}, SETTINGS, 4200.0)
    if relayed:
        verdicts |= judge_reports(verdicts, MAILS, SETTINGS, 5000.0)
    verdicts |= judge(verdicts, {WEB: new(1, 900)}, SETTINGS, 15000.0)
    assert verdicts[WEB].state is state


def convicted_before_its_queue() -> dict[Host, Verdict]:
    """A spambot's verdict; then some mail by the relay, and after a pause a queue's worth of new destinations."""
    verdicts = judge({}, {WEB: new(40)}, SETTINGS, 0.0)
    verdicts |= judge_reports(verdicts, {WEB: Volume(5, 0, 5, 0, 1, 5)}, SETTINGS, 60.0)
    return verdicts | judge(verdicts, {WEB: new(20, 100)}, SETTINGS, 800.0)


def test_a_queue_that_begins_after_a_verdict_does_not_wash_it_away() -> None:
    verdicts = convicted_before_its_queue()
    assert verdicts[WEB].memory.past.queue is not None
    for now_s in (800.0, 3 * SETTINGS.half_life_s - 60.0):
        verdicts |= judge(verdicts, {}, SETTINGS, now_s)
        assert verdicts[WEB].state is State.COMPROMISED, "as long as without a queue"


def test_nor_do_its_retries_though_they_pay_for_what_came_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def retried() -> State:
        verdicts = convicted_before_its_queue()
        verdicts = {WEB: restarted(verdicts[WEB], 800.0, 800.0)}
        for n in (1, 2):
            verdicts |= judge(verdicts, {WEB: Attempts(20, (), 0, names(100, 20))}, SETTINGS, 800.0 + n * 300.0)
        return verdicts[WEB].state
    assert retried() is State.COMPROMISED
    monkeypatch.setattr(Queue, "debt", 0.0)
    assert retried() is State.CLEAN


def test_what_was_tried_while_it_passed_is_no_debt_of_whom_the_site_has_just_shut_out() -> None:
    verdicts = judge({}, {WEB: new(40)}, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(5, 100)}, SETTINGS, 800.0, settling=True)
    assert verdicts[WEB].state is State.CLEAN


# Causes

def visits(gaps: Iterable[float], destinations: int) -> Verdict:
    verdicts = judge({}, {WEB: new(destinations)}, SETTINGS, 0.0)
    now_s = 0.0
    for gap_s in gaps:
        now_s += gap_s
        found = Attempts(destinations, (), 0, names(0, destinations))
        verdicts |= judge(verdicts, {WEB: found}, SETTINGS, now_s)
    return verdicts[WEB]


@pytest.mark.parametrize(("gaps", "destinations", "cause"), [
    ([60.0] * 20, 1, Cause.PROBER), ([300.2, 299.9, 300.1] * 5, 3, Cause.PROBER),
    ([700.0, 90.0, 4000.0, 20.0, 1300.0, 33.0, 260.0], 2, Cause.APPLICATION),
    ([300.0, 600.0, 1200.0, 2400.0, 3900.0], 4, Cause.APPLICATION), ([], 1, Cause.UNKNOWN),
])
def test_how_a_host_comes_back_says_what_it_is(gaps: list[float], destinations: int, cause: Cause) -> None:
    verdict = visits(gaps, destinations)
    assert likeliest(verdict.memory, verdict.state) is cause


def test_a_few_destinations_after_very_many_are_remembered() -> None:
    """Whoever gets a spambot's address by DHCP would be held by his smarthost's addresses, new at each visit."""
    verdicts = judge({}, {WEB: new(40 * memory.SATURATED)}, SETTINGS, 0.0)
    few = Attempts(4, names(10**6, 4))
    verdicts |= judge(verdicts, {WEB: few}, SETTINGS, 4000.0)
    before = verdicts[WEB].score
    for n in range(2, 8):  # the counters have forgotten them in between
        verdicts |= judge(verdicts, {WEB: few}, SETTINGS, n * 4000.0)
    assert verdicts[WEB].score < before / 8
    assert verdicts[WEB].state is not State.COMPROMISED


def test_a_queues_very_many_destinations_are_not_forgotten_for_the_next_of_them() -> None:
    """They would be new again and again: 3 servers of 140 that had lost their way were called spambots by that."""
    verdicts = judge_reports({}, {WEB: Volume(100, 0, 100, 1, 5, 300)}, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(1)}, SETTINGS, 3600.0)
    verdicts |= judge(verdicts, {WEB: new(memory.SATURATED + 50, 1)}, SETTINGS, 3601.0)
    bits = verdicts[WEB].memory.past.bits
    assert bits.bit_count() > memory.SATURATED
    verdicts |= judge(verdicts, {WEB: new(5, 10**6)}, SETTINGS, 3602.0)
    assert verdicts[WEB].memory.past.bits & bits == bits


# What outlives the process

def restarted(verdict: Verdict, now_s: float, at_s: float = 0.0) -> Verdict:
    """As the next process reads it, at `at_s` of another boot."""
    return verdict._replace(memory=thaw(freeze(verdict.memory, now_s), at_s), at_s=at_s)


def test_a_restart_forgets_no_destination() -> None:
    verdict = after([new(30)])
    again = restarted(verdict, 0.0)
    assert (again.memory.past.bits, again.memory.past.salt) == (verdict.memory.past.bits, verdict.memory.past.salt)
    gained = judge({WEB: again}, {WEB: new(30)}, SETTINGS, 0.0)[WEB].memory.gained
    assert gained == verdict.memory.gained, "none of them is new"


def test_a_restart_forgets_no_queue() -> None:
    verdicts = judge_reports({}, MAILS, SETTINGS, 0.0)
    verdicts |= judge(verdicts, {WEB: new(80)}, SETTINGS, 3600.0)
    assert verdicts[WEB].undecided
    verdicts = {WEB: restarted(verdicts[WEB], 3600.0)}
    assert verdicts[WEB].undecided
    verdicts |= judge(verdicts, {WEB: Attempts(80, (), 0, names(0, 80))}, SETTINGS, 600.0)
    assert (verdicts[WEB].state, verdicts[WEB].told) == (State.CLEAN, State.CLEAN), "the retries have paid"


@pytest.mark.parametrize("frozen", [None, b"", b"x", bytes(79), bytes(81)])
def test_what_is_no_memory_is_none(frozen: bytes | None) -> None:
    assert thaw(frozen, 5.0) == NOTHING


def test_the_memory_of_an_earlier_version_is_read() -> None:
    read = thaw(SUMS.pack(3.5, 0.5, 0, 0, 0, 0, 2, 1, 0, 2, 0, 7, 40), 5.0)
    assert (read.gained, read.visits, read.past.mailed, destinations_of(read)) == (3.5, (1, 0, 2, 0), 40, 7)
    assert thaw(freeze(read, 5.0), 9.0) == read._replace(past=read.past._replace(told_s=9.0))


def test_two_hosts_have_their_destinations_under_different_bits() -> None:
    """Nobody can choose destinations that share a bit: the salt is a host's own, and drawn by each process."""
    one, other = (salt_from(name) for name in names(0, 2))
    assert one != other
    assert {bit_of(one, d, 512) for d in names(0, 50)} != {bit_of(other, d, 512) for d in names(0, 50)}


# Release

def test_after_a_release_and_a_restart_the_same_evidence_does_not_convict_again_and_new_evidence_does() -> None:
    verdicts = judge({}, {WEB: new(30)}, SETTINGS, 0.0)
    released = {WEB: restarted(release(verdicts[WEB], 10.0), 10.0)}
    same = judge(released, {WEB: new(30)}, SETTINGS, 20.0)
    assert same[WEB].state is State.CLEAN
    assert judge(same, {WEB: new(10, 700)}, SETTINGS, 30.0)[WEB].state is State.COMPROMISED



def test_after_a_release_the_same_evidence_does_not_convict_again_and_new_evidence_does() -> None:
    verdicts = judge({}, {WEB: new(30)}, SETTINGS, 0.0)
    released = {WEB: release(verdicts[WEB], 10.0)}
    assert released[WEB].state is State.CLEAN
    same = judge(released, {WEB: new(30)}, SETTINGS, 20.0)
    assert same[WEB].state is State.CLEAN
    assert judge(same, {WEB: new(10, 700)}, SETTINGS, 30.0)[WEB].state is State.COMPROMISED
