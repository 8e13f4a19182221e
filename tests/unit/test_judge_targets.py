"""The judge on simulated hosts, as `script/bench judge` measures it, with fewer of them; the rest is there."""

import statistics
from dataclasses import replace

import pytest

from bench.judge.figures import interval
from bench.judge.parameters import EVALUATION
from bench.judge.run import Outcome, simulate
from egressguard.core import queue
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause

SEEDS = 5_000_000  # neither the bench's nor those that weights were chosen on
SETTINGS = Detection()


def outcomes(name: str, hosts: int) -> list[Outcome]:
    # What a repair ends is not what convicts: half a day of a queue is enough here.
    p = replace(EVALUATION, repaired_after_s=(3600, 43200))
    return [simulate(name, p, SEEDS + n, SETTINGS) for n in range(hosts)]


@pytest.mark.parametrize(("name", "hosts"), [
    ("spambot, fast", 1000), ("spambot, bursty", 500), ("spambot, low and slow", 500)])
def test_spambots_are_found(name: str, hosts: int) -> None:
    found = [o for o in outcomes(name, hosts) if o.attempts is not None]
    assert interval(len(found), hosts)[1] >= 0.99
    assert len(found) >= 0.99 * hosts
    assert all(o.cause is Cause.SPAMBOT for o in found)
    if name == "spambot, fast":
        assert statistics.median(o.attempts or 0 for o in found) <= 6


@pytest.mark.parametrize(("name", "hosts"), [
    ("lost mailertable", 25), ("just-blocked server", 25), ("hard-coded smarthost", 60), ("monitoring", 15),
    ("NAT", 20), ("DHCP", 300)])
def test_others_are_not_called_spambots_and_are_named(name: str, hosts: int) -> None:
    found = outcomes(name, hosts)
    assert sum(o.attempts is not None for o in found) == 0
    judged = [o for o in found if o.judged]
    assert sum(o.cause is o.truth for o in judged) >= 0.7 * len(judged), "over all classes it is 0.9: the bench"


def test_without_the_queue_a_mail_server_is_called_a_spambot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "WIDELY", 10**9)
    assert all(o.attempts is not None for o in outcomes("lost mailertable", 10))
