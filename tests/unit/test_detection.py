"""The sequential test: what it takes to be suspected, to be compromised, and to be forgiven."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.attempts import Attempts
from egressguard.core.detection import judge, weights
from egressguard.core.hosts import Host
from egressguard.core.settings import Detection
from egressguard.core.verdict import State, Verdict, states_by_key, transitions

WEB = Host("198.51.100.12")
SETTINGS = Detection()


def new(count: int) -> Attempts:
    return Attempts(count, tuple(f"203.0.113.{n}" for n in range(count)))


def after(rounds: Iterable[Attempts], period_s: float = 1.0) -> Verdict:
    verdicts: dict[Host, Verdict] = {}
    for number, attempts in enumerate(rounds):
        verdicts = judge(verdicts, {WEB: attempts}, SETTINGS, number * period_s)
    return verdicts[WEB]


@pytest.mark.parametrize(("destinations", "state"), [
    (1, State.CLEAN), (2, State.SUSPECT), (4, State.SUSPECT), (5, State.COMPROMISED), (500, State.COMPROMISED),
])
def test_new_destinations_decide(destinations: int, state: State) -> None:
    assert after([new(destinations)]).state is state
    assert after([new(1)] * destinations).state is state


def test_retries_to_one_destination_stay_clean() -> None:
    assert after([new(1), *[Attempts(1)] * 100]).state is State.CLEAN


def test_a_burst_that_mixes_retries_in_cannot_talk_itself_down() -> None:
    assert after([Attempts(60, new(20).new_destinations)]).state is State.COMPROMISED


@pytest.mark.parametrize("repeats", [1, 15, 10_000])
def test_no_repetition_washes_a_verdict_away(repeats: int) -> None:
    assert after([new(5), *[Attempts(1)] * repeats], 0.0).state is State.COMPROMISED
    assert after([new(5), Attempts(repeats), Attempts(repeats)]).state is State.COMPROMISED


def test_a_bot_that_tries_every_destination_twice_is_found() -> None:
    tries = [a for n in range(12) for a in (Attempts(1, (f"203.0.113.{n}",)), Attempts(1))]
    assert after(tries).state is State.COMPROMISED


def test_what_could_not_be_recorded_counts_as_new() -> None:
    assert after([Attempts(60, (), 60)]).state is State.COMPROMISED


def test_the_score_halves_every_half_life_and_the_verdict_falls_late() -> None:
    verdicts = judge({}, {WEB: new(5)}, SETTINGS, 0.0)
    score = verdicts[WEB].score
    later = judge(verdicts, {}, SETTINGS, SETTINGS.half_life_s)[WEB]
    assert later.score == pytest.approx(score / 2)
    assert later.state is State.COMPROMISED, "half of the bound is not yet left behind"
    assert judge(verdicts, {}, SETTINGS, 2 * SETTINGS.half_life_s)[WEB].state is State.SUSPECT
    assert judge(verdicts, {}, SETTINGS, 4 * SETTINGS.half_life_s)[WEB].state is State.CLEAN


def test_a_clock_that_stands_still_or_steps_back_changes_nothing() -> None:
    verdicts = judge({}, {WEB: new(5)}, SETTINGS, 100.0)
    assert judge(verdicts, {}, SETTINGS, 50.0)[WEB].score == verdicts[WEB].score


def test_every_state_on_the_way_is_a_step_of_history() -> None:
    verdicts = judge({}, {WEB: new(50)}, SETTINGS, 0.0)
    steps = [(s.before, s.after) for s in transitions({}, verdicts.values())]
    assert steps == [(State.CLEAN, State.SUSPECT), (State.SUSPECT, State.COMPROMISED)]


def test_a_lower_error_rate_asks_for_more_evidence() -> None:
    strict = weights(Detection(false_alarm=1e-6))
    assert strict.compromised > weights(SETTINGS).compromised


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.floats(0, 1e6)), max_size=40))
def test_scores_stay_finite_and_attempts_add_up(rounds: list[tuple[int, int, float]]) -> None:
    verdicts: dict[Host, Verdict] = {}
    now_s, total = 0.0, 0
    for count, destinations, pause_s in rounds:
        now_s, total = now_s + pause_s, total + count
        verdicts = judge(verdicts, {WEB: Attempts(count, new(destinations).new_destinations)}, SETTINGS, now_s)
        assert 0 <= verdicts[WEB].score <= 2 * weights(SETTINGS).compromised
    assert not rounds or verdicts[WEB].attempts == total


def test_a_verdict_holds_under_every_key_of_its_machine() -> None:
    six = Host("2001:db8:0:12::/64")
    verdict = after([new(5)])
    assert states_by_key([verdict], {WEB: WEB, six: WEB}) == {WEB: State.COMPROMISED, six: State.COMPROMISED}
