"""The loop stays awake only where that is shorter than sleeping, and where it is not it soon stops to try."""

from egressguard_milter import waiting
from egressguard_milter.waiting import AWAKE_S, MOST_SLEEPS, Ready, Waiting

SAID: Ready = [(5, 1)]


class Machine:
    """A poll and a clock: an MTA says something `after_s` each time, if it is `scheduled` while we are awake."""

    def __init__(self, after_s: float, *, scheduled: bool = True) -> None:
        self.now_s, self.due_s, self.after_s, self.scheduled = 0.0, after_s, after_s, scheduled
        self.slept, self.awake_s = 0, 0.0
        self.waiting = Waiting(self.poll, lambda: self.now_s)

    def poll(self, most_s: float, _: int) -> Ready:
        self.now_s += 1e-6
        if most_s:
            self.slept += 1
            self.now_s = max(self.now_s, min(self.due_s, self.now_s + most_s))
        else:
            self.awake_s += 1e-6
            self.due_s += 0.0 if self.scheduled else 1e-6
        return SAID if self.now_s >= self.due_s else []

    def answer(self) -> Ready:
        self.due_s = self.now_s + self.after_s
        return self.waiting.wait(1.0)


def test_while_the_mta_answers_at_once_nobody_sleeps() -> None:
    machine = Machine(20e-6)
    assert all(machine.answer() == SAID for _ in range(1000))
    assert machine.slept == 1  # the first, which showed how long it takes


def test_an_mta_that_takes_its_time_is_waited_for_asleep() -> None:
    machine = Machine(5 * AWAKE_S)
    assert all(machine.answer() == SAID for _ in range(1000))
    assert machine.awake_s == 0
    machine.due_s = machine.now_s + 5.0
    assert machine.waiting.wait(1.0) == []


def test_an_mta_that_needs_our_processor_gets_it() -> None:
    machine = Machine(20e-6, scheduled=False)
    tries = 20 * MOST_SLEEPS
    assert all(machine.answer() == SAID for _ in range(tries))
    assert machine.awake_s < 40 * AWAKE_S
    assert machine.slept == tries


def test_without_the_memory_of_vain_tries_the_processor_would_be_kept(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(waiting, "MOST_SLEEPS", 1)
    machine = Machine(20e-6, scheduled=False)
    assert all(machine.answer() == SAID for _ in range(20 * MOST_SLEEPS))
    assert machine.awake_s > 1000 * AWAKE_S


def test_a_processor_that_is_free_again_is_found_out() -> None:
    machine = Machine(20e-6, scheduled=False)
    for _ in range(5 * MOST_SLEEPS):
        machine.answer()
    machine.scheduled, machine.slept = True, 0
    for _ in range(5 * MOST_SLEEPS):
        machine.answer()
    assert machine.slept <= MOST_SLEEPS + 2
