"""The judge on simulated hosts, as `script/bench judge` measures it, with fewer of them; the rest is there.

What is seen of few hosts can contradict a target, or not: a bound is what chance alone would break in one run of a
thousand, were the judge exactly as good as required.
"""

import re
import statistics
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest

from bench.judge import run
from bench.judge.classes import CLASSES, WITHOUT_TARGET
from bench.judge.figures import BENIGN_TARGET, at_least, at_most, interval
from bench.judge.parameters import EVALUATION, Parameters
from bench.judge.run import Outcome, may_stay_s, simulate
from bench.judge.targets import FOUND, MEDIAN, MOST_OF_ONE, RIGHT, Target, state_of, targets
from egressguard.core import queue, weights
from egressguard.core.hosts import Host
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause

SEEDS = 5_000_000  # neither the bench's nor those that weights were chosen on
SETTINGS = Detection()
BY_CHANCE = 0.001
JUDGING = Path(__file__).parents[2] / "docs/judging.md"
BOTS = {"spambot, fast": 800, "spambot, bursty": 300, "spambot, low and slow": 300, "spambot, IPv6 privacy": 300,
        "spambot, behind NAT": 150, "spambot, inherited address": 300, "spambot, host mails by relay": 300,
        "spambot, just blocked": 300}
OTHERS = {"lost mailertable": 25, "just-blocked server": 25, "hard-coded smarthost": 60, "monitoring": 12, "NAT": 20,
          "IPv6 privacy": 20, "DHCP": 300, "DHCP, after a spambot": 40}


@pytest.fixture(autouse=True)
def _no_two_destinations_look_alike() -> None:
    """Here they may, as they do in life; the bitmaps of other tests would cost minutes."""


@cache
def outcomes(name: str, hosts: int, seeds: int = SEEDS) -> list[Outcome]:
    # What a repair ends is not what convicts: half a day of a queue is enough here.
    p = replace(EVALUATION, repaired_after_s=(3600, 43200))
    return [simulate(name, p, seeds + n, SETTINGS) for n in range(hosts)]


def test_every_class_is_here_or_has_a_reason_why_not() -> None:
    assert {*BOTS, *OTHERS, *WITHOUT_TARGET} == {*CLASSES}


@pytest.mark.parametrize("name", BOTS)
def test_spambots_are_found(name: str) -> None:
    found = [o for o in outcomes(name, BOTS[name]) if o.attempts is not None]
    assert at_most(len(found), BOTS[name], FOUND) > BY_CHANCE, f"{len(found)} of {BOTS[name]}"
    assert all(o.cause is Cause.SPAMBOT for o in found)


def test_spambots_are_missed_no_more_often_than_beta_says() -> None:
    """Enough of them together that the whole interval lies below."""
    found = [o for name, hosts in BOTS.items() for o in outcomes(name, hosts)]
    missed = sum(o.attempts is None for o in found)
    assert interval(missed, len(found))[1] <= SETTINGS.missed, f"{missed} of {len(found)}"


def test_a_fan_out_bot_needs_six_attempts_and_one_on_a_mailing_host_is_limited_after_as_many() -> None:
    fast = [o.attempts or 0 for o in outcomes("spambot, fast", 800)]
    assert statistics.median(fast) <= MEDIAN
    limited = [o.limited or 10**9 for o in outcomes("spambot, host mails by relay", 300)]
    assert statistics.median(limited) <= MEDIAN


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not_called_spambots(name: str) -> None:
    found = outcomes(name, OTHERS[name])
    alarms, months = sum(o.attempts is not None for o in found), sum(o.days for o in found) / 30
    share = min(1.0, BENIGN_TARGET * months / len(found))
    assert at_least(alarms, len(found), share) > BY_CHANCE, f"{alarms} of {len(found)} in {months:.0f} months"


def test_others_are_called_spambots_and_suspected_no_more_often_than_alpha_says() -> None:
    found = [o for name, hosts in OTHERS.items() for o in outcomes(name, hosts)]
    for said, alpha in ((sum(o.attempts is not None for o in found), SETTINGS.false_alarm),
                        (sum(o.suspect for o in found), SETTINGS.suspect_false_alarm),
                        (sum(o.held for o in found), SETTINGS.hold_false_alarm)):
        assert at_least(said, len(found), alpha) > BY_CHANCE, f"{said} of {len(found)}, α = {alpha}"


def test_causes_are_named_right() -> None:
    judged = [o for name, hosts in (BOTS | OTHERS).items() for o in outcomes(name, hosts) if o.judged]
    others = [o for o in judged if o.truth is not Cause.SPAMBOT]
    for some in (judged, others):
        right = sum(o.cause is o.truth for o in some)
        assert at_most(right, len(some), RIGHT) > BY_CHANCE, f"{right} of {len(some)}"


def test_who_inherits_a_spambots_address_is_rid_of_its_verdict_when_that_lapses() -> None:
    found = outcomes("DHCP, after a spambot", 40)
    assert max(o.silent_s for o in found) <= may_stay_s(SETTINGS)
    assert max(o.stale_s for o in found) <= may_stay_s(SETTINGS, MOST_OF_ONE)
    assert sum(o.stale_s > 0 for o in found) >= 20, "most of them do inherit one"


def test_without_the_queue_a_mail_server_is_called_a_spambot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "WIDELY", 10**9)
    assert all(o.attempts is not None for o in outcomes("lost mailertable", 10, SEEDS + 1))


def test_were_each_address_a_host_a_bot_that_changes_it_would_not_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "key_of", Host)
    found = outcomes("spambot, IPv6 privacy", 40, SEEDS + 1)
    assert at_most(sum(o.attempts is not None for o in found), 40, FOUND) < BY_CHANCE


def test_without_a_second_retry_a_bot_of_before_the_block_would_be_a_mail_server(monkeypatch: pytest.MonkeyPatch) -> None:
    real = queue.after

    def once(*arguments, **more):  # type: ignore[no-untyped-def]
        return real(*arguments, **more)._replace(again={})
    monkeypatch.setattr(queue, "after", once)
    found = outcomes("spambot, just blocked", 300, SEEDS + 1)
    monkeypatch.undo()
    assert sum(o.attempts is None for o in found) > sum(o.attempts is None for o in outcomes("spambot, just blocked", 300))


# What the bench makes of it

def test_a_target_is_met_open_or_missed() -> None:
    assert state_of(0.0, 0.0009, 0.001) == "met"
    assert state_of(0.0, 0.004, 0.001) == "open"
    assert state_of(0.002, 0.004, 0.001) == "missed"


def fake(missed: int = 0, alarms: int = 0, wrong: int = 0) -> list[Target]:
    """The targets, were so many hosts of the first class of each kind judged wrongly."""
    found = {}
    for name in CLASSES:
        bot = name.startswith("spambot")
        truth = Cause.SPAMBOT if bot else Cause.APPLICATION
        found[name] = [Outcome(truth, 30.0, 6 if bot else None, 1.0, 6, cause=truth, judged=True) for _ in range(2000)]
        for o in found[name]:
            o.held = bot
    for o in found["spambot, fast"][:missed]:
        o.attempts = None
    for o in found["DHCP"][:alarms]:
        o.attempts = 6
    for o in (o for outcomes in found.values() for o in outcomes[:wrong]):
        o.cause = Cause.UNKNOWN
    return targets(found, SETTINGS)


def test_the_bench_fails_when_a_target_is_missed() -> None:
    def missed(aims: list[Target]) -> list[str]:
        return [aim.what for aim in aims if not aim.reached]
    assert missed(fake()) == []
    assert any("β" in what for what in missed(fake(missed=180)))
    assert "spambot, fast: missed" in missed(fake(missed=40))
    assert any("α" in what for what in missed(fake(alarms=12)))
    assert "DHCP: false alarms per host-month" in missed(fake(alarms=8))
    assert any("cause" in what for what in missed(fake(wrong=300)))


# What the docs say of it

def rows(title: str) -> dict[str, str]:
    """Name and value of each row under a title."""
    part = JUDGING.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", part, re.M))


def test_docs_have_every_parameter_of_the_simulator_with_its_value() -> None:
    assert rows("What the simulator assumes") == {f.name: shown(getattr(EVALUATION, f.name)) for f in fields(Parameters)}


def test_docs_have_every_parameter_of_the_judge_with_its_value() -> None:
    expected = {f.name: shown(getattr(SETTINGS, f.name)) for f in fields(Detection)}
    for module in (weights, queue):
        expected |= {name: shown(value) for name, value in vars(module).items()
                     if name.isupper() and isinstance(value, float | int | tuple) and not module_private(name)}
    expected |= {f"KINDS_{cause.name}": shown(shares) for cause, shares in weights.KINDS.items()}
    assert rows("What the judge assumes") == expected


def module_private(name: str) -> bool:
    """What names an index, or follows from others."""
    return name in {"SOON", "REGULAR", "LATE", "RUN", "BENIGN", "PAID", "UNPAID", "DAY_S"}


def shown(value: object) -> str:
    """A value as the table has it."""
    if isinstance(value, tuple):
        return (" to " if len(value) == 2 else ", ").join(f"{end:g}" for end in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}"
