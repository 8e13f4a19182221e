"""A signal is a lease at the receiver: stale, replayed and reordered documents change nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core import leases
from egressguard.core.documents import Bulletin, Origin
from egressguard.core.hosts import Host
from egressguard.core.leases import LONG_AGO_S, Inbox, Mark, marks_from_json, marks_to_json, worst
from egressguard.core.verdict import State

WEB = Host("198.51.100.12")
FIRST = Bulletin(Origin("r1", 1, 1), 30.0, {WEB: State.SUSPECT})
NOTHING: Inbox[Bulletin] = Inbox()


def at(epoch: int, sequence: int, state: State = State.CLEAN) -> Bulletin:
    return Bulletin(Origin("r1", epoch, sequence), 30.0, {WEB: state})


def test_a_document_counts_for_its_lifetime_after_receipt() -> None:
    inbox = NOTHING.receive([FIRST], 100.0)
    assert worst(inbox.leases, 129.9) == {WEB: State.SUSPECT}
    assert worst(inbox.leases, 130.0) == {}


def test_reading_it_again_does_not_prolong_it() -> None:
    inbox = NOTHING.receive([FIRST], 100.0).receive([FIRST], 129.0)
    assert worst(inbox.leases, 131.0) == {}
    assert worst(inbox.receive([FIRST], 10_000.0).leases, 10_000.0) == {}, "not even when it was stale for long"
    gone = inbox.receive([], 1_000.0)
    assert worst(gone.receive([FIRST], 10_000.0).leases, 10_000.0) == {}, "not even when it was away meanwhile"


@pytest.mark.parametrize("old", [at(2, 1), at(1, 99), at(0, 0)])
def test_an_older_one_changes_nothing_whatever_its_epoch_and_is_counted(old: Bulletin) -> None:
    inbox = NOTHING.receive([at(2, 2, State.COMPROMISED)], 0.0).receive([old], 1.0)
    assert worst(inbox.leases, 1.0) == {WEB: State.COMPROMISED}
    assert inbox.replayed == 1


def test_an_older_one_changes_nothing_long_after_its_origin_fell_silent() -> None:
    inbox = NOTHING.receive([at(2, 2)], 0.0).receive([], 1e6).receive([at(2, 1, State.COMPROMISED)], 1e6 + 1)
    assert worst(inbox.leases, 1e6 + 1) == {}


def test_a_restarted_router_begins_a_new_epoch() -> None:
    inbox = NOTHING.receive([at(1, 99, State.COMPROMISED)], 0.0).receive([at(2, 1)], 1.0)
    assert worst(inbox.leases, 1.0) == {WEB: State.CLEAN}
    assert inbox.replayed == 0


def test_the_same_number_with_another_content_changes_nothing() -> None:
    inbox = NOTHING.receive([at(1, 1, State.COMPROMISED)], 0.0).receive([at(1, 1)], 1.0)
    assert worst(inbox.leases, 1.0) == {WEB: State.COMPROMISED}


def test_a_restarted_receiver_takes_no_old_document_for_a_new_one() -> None:
    seen = NOTHING.receive([at(1, 4)], 0.0).receive([at(1, 5, State.COMPROMISED)], 100.0)
    marks = marks_from_json(marks_to_json(seen.marks, "boot"), "boot")
    restarted: Inbox[Bulletin] = Inbox(marks=marks)
    same = restarted.receive([at(1, 5, State.COMPROMISED)], 120.0)
    assert worst(same.leases, 129.0) == {WEB: State.COMPROMISED}, "the one it had keeps its true age"
    assert worst(same.leases, 131.0) == {}
    assert restarted.receive([at(1, 4)], 120.0).replayed == 1
    rebooted: Inbox[Bulletin] = Inbox(marks=marks_from_json(marks_to_json(seen.marks, "boot"), "another"))
    assert worst(rebooted.receive([at(1, 5, State.COMPROMISED)], 5.0).leases, 5.0) == {}, "how old is it? Nobody knows"
    assert worst(rebooted.receive([at(1, 6, State.SUSPECT)], 5.0).leases, 5.0) == {WEB: State.SUSPECT}


def test_a_mutant_that_forgets_marks_believes_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_MARKS", 0)
    inbox = NOTHING.receive([at(2, 2)], 0.0).receive([], 1e6).receive([at(2, 1, State.COMPROMISED)], 1e6 + 1)
    assert worst(inbox.leases, 1e6 + 1) == {WEB: State.COMPROMISED}


def test_the_newest_marks_are_remembered_and_their_number_is_bounded() -> None:
    documents = [replace(FIRST, origin=Origin(f"r{n}", 1, 1)) for n in range(leases.MAX_MARKS + 5)]
    marks = NOTHING.receive(documents, 0.0).marks
    assert len(marks) == leases.MAX_MARKS
    assert "r0" not in marks


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["boot", "marks", "r1"]), inner, max_size=3), max_leaves=8))
def test_damaged_marks_are_no_marks(found: object) -> None:
    assert isinstance(marks_from_json(found, "boot"), dict)


def test_marks_of_another_boot_were_seen_long_ago() -> None:
    assert marks_from_json({"boot": "a", "marks": {"r1": [1, 2, 3.0]}}, "b") == {"r1": Mark((1, 2), LONG_AGO_S)}


def test_where_routers_disagree_the_worst_counts() -> None:
    other = Bulletin(Origin("r2", 1, 1), 30.0, {WEB: State.COMPROMISED})
    for order in ([FIRST, other], [other, FIRST]):
        assert worst(NOTHING.receive(order, 0.0).leases, 0.0) == {WEB: State.COMPROMISED}


def test_a_silent_origin_is_dropped_once_its_document_is_gone() -> None:
    inbox = NOTHING.receive([FIRST], 0.0)
    assert inbox.receive([], 29.0).leases
    assert not inbox.receive([], 31.0).leases
