"""From counters to attempts: nothing is lost, nothing is counted twice."""

from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.attempts import Attempts, Baseline, Sample, Totals, advance, between, joined
from egressguard.core.hosts import Host

WEB1, WEB2 = Host("198.51.100.11"), Host("198.51.100.12")


def sample(at_s: float, count: int, *destinations: str) -> Sample:
    return Sample(at_s, inventory={WEB1: count}, destinations={(WEB1, d): 1 for d in destinations})


def test_the_first_sample_counts_in_full() -> None:
    assert between(Baseline(), sample(0, 3, "203.0.113.1")) == {WEB1: Attempts(3, ("203.0.113.1",))}


def test_only_growth_counts() -> None:
    baseline = advance(Baseline(), sample(0, 3, "203.0.113.1"))
    assert between(baseline, sample(1, 3, "203.0.113.1")) == {}
    assert between(baseline, sample(1, 5, "203.0.113.1")) == {WEB1: Attempts(2, ())}


def test_a_smaller_value_is_a_new_incarnation_not_a_negative_number() -> None:
    baseline = advance(Baseline(), sample(0, 9))
    assert between(baseline, sample(1, 2)) == {WEB1: Attempts(2)}


def test_an_element_that_one_dump_missed_is_not_counted_again() -> None:
    baseline = advance(Baseline(), sample(0, 50, "203.0.113.1"))
    baseline = advance(baseline, Sample(1))
    assert between(baseline, sample(2, 50, "203.0.113.1")) == {}


def test_a_host_that_is_nobodys_is_left_out_everywhere() -> None:
    seen = Sample(1, Totals(attempts=5), {WEB1: 3}, {WEB2: 2}, {(WEB1, "203.0.113.1"): 3, (WEB2, "203.0.113.1"): 2},
                  {WEB1: frozenset({"00:00:5e:00:53:c1"})})
    left = seen.without(frozenset({WEB1}))
    assert (left.attempts, left.destinations, left.macs) == ({WEB2: 2}, {(WEB2, "203.0.113.1"): 2}, {})
    assert seen.without(frozenset({Host("192.0.2.254")})) is seen


def stranger(at_s: float, count: int) -> Sample:
    return Sample(at_s, strangers={WEB1: count})


def test_an_element_that_must_have_expired_meanwhile_is_new_even_with_the_same_value() -> None:
    baseline, counted = Baseline(), 0
    for number in range(5):
        seen = stranger(3700.0 * number, 3)
        counted += between(baseline, seen)[WEB1].count
        baseline = advance(baseline, seen)
    assert counted == 15
    assert between(baseline, stranger(3700.0 * 4 + 10, 3)) == {}


def test_the_inventorys_counters_never_expire() -> None:
    baseline = advance(Baseline(), sample(0, 50))
    assert between(baseline, sample(1e9, 51)) == {WEB1: Attempts(1)}


def test_memory_is_bounded_by_time() -> None:
    baseline = advance(Baseline(), Sample(0, strangers={WEB1: 3}, destinations={(WEB1, "203.0.113.1"): 3}))
    forgotten = advance(baseline, Sample(3600))
    assert not forgotten.strangers.values
    assert not forgotten.destinations.values


def test_what_found_no_room_is_unknown_for_whom_it_was_and_for_nobody_else() -> None:
    first = Sample(0, Totals(), {WEB1: 5, WEB2: 5}, {}, {(WEB1, "a"): 5, (WEB2, "b"): 5})
    baseline = advance(Baseline(), first)
    full = Sample(1, Totals(fanout_overflow=7), {WEB1: 12, WEB2: 9}, {}, {(WEB1, "a"): 5, (WEB2, "b"): 9})
    assert between(baseline, full) == {WEB1: Attempts(7, (), 7), WEB2: Attempts(4, retried=("b",))}


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=30))
def test_attempts_add_up_to_what_the_kernel_counted(steps: list[tuple[int, bool, bool]]) -> None:
    """However dumps miss the element, and whenever it is made anew (unseen growth of an old one is lost)."""
    baseline, kernel, total, counted = Baseline(), 0, 0, 0
    for number, (grown, missed, renewed) in enumerate(steps):
        kernel += grown
        total += grown
        seen = Sample(number) if missed else sample(number, kernel)
        counted += sum(found.count for found in between(baseline, seen).values())
        baseline = advance(baseline, seen)
        if renewed and not missed and kernel:
            kernel = 0
            # The new element is seen before it outgrows the old one: what the short round is for.
            baseline = advance(baseline, sample(number, 0))
    final = sample(len(steps), kernel)
    counted += sum(found.count for found in between(baseline, final).values())
    assert counted == total


def test_one_machine_is_judged_under_all_its_keys() -> None:
    six = Host("2001:db8:0:11::/64")
    evidence = {WEB1: Attempts(2, ("a",)), six: Attempts(3, ("b",)), WEB2: Attempts(1)}
    assert joined([evidence], {WEB1: WEB1, six: WEB1}) == {WEB1: Attempts(5, ("a", "b")), WEB2: Attempts(1)}


def test_a_destination_that_is_read_before_its_attempt_is_new_all_the_same() -> None:
    """An attempt between the two readings of a sample: its host's counter shows it a round later."""
    first = Sample(1, Totals(), {WEB1: 1}, {}, {(WEB1, "a"): 1, (WEB1, "b"): 1})
    assert between(Baseline(), first) == {WEB1: Attempts(1, ("a", "b"))}
    early = Sample(2, Totals(), {WEB1: 1}, {}, {(WEB1, "a"): 1, (WEB1, "b"): 1, (WEB1, "c"): 1})
    assert between(advance(Baseline(), first), early) == {WEB1: Attempts(0, ("c",))}
