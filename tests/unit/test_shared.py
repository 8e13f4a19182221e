"""Several routers: what they count of one host adds up, and nothing is counted twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core import shared
from egressguard.core.attempts import Attempts
from egressguard.core.documents import MOST_LATEST, Bulletin, Origin, Tried
from egressguard.core.hosts import Host
from egressguard.core.shared import Heard, tried

WEB = Host("198.51.100.12")


def bulletin(epoch: int, counted: Tried, name: str = "r2") -> Bulletin:
    return Bulletin(Origin(name, epoch, 1), 30.0, {}, tried={WEB: counted})


def test_what_is_found_at_the_start_is_where_counting_begins() -> None:
    heard, told = Heard().hear([bulletin(1, Tried(50, 5, ("a",)))], "r1")
    assert told == {}
    heard, told = heard.hear([bulletin(1, Tried(53, 6, ("a", "b")))], "r1")
    assert told == {WEB: Attempts(3, ("b",))}
    assert heard.hear([bulletin(1, Tried(53, 6, ("a", "b")))], "r1")[1] == {}, "read twice, counted once"


def test_a_restarted_router_begins_at_zero() -> None:
    heard, _ = Heard().hear([bulletin(1, Tried(50, 5))], "r1")
    assert heard.hear([bulletin(2, Tried(2, 1, ("c",)))], "r1")[1] == {WEB: Attempts(2, ("c",))}


def test_one_s_own_bulletin_tells_nothing() -> None:
    heard, _ = Heard().hear([bulletin(1, Tried(1), "r1")], "r1")
    assert heard.hear([bulletin(1, Tried(9), "r1")], "r1") == (Heard(), {})


def test_two_routers_add_up() -> None:
    both = [bulletin(1, Tried(0), name) for name in ("r2", "r3")]
    heard, _ = Heard().hear(both, "r1")
    _, told = heard.hear([bulletin(1, Tried(3, 1, ("a",)), "r2"), bulletin(1, Tried(4, 2, ("b", "c")), "r3")], "r1")
    assert told == {WEB: Attempts(7, ("a", "b", "c"))}


def test_more_new_destinations_than_can_be_named_are_new_all_the_same() -> None:
    counted = tried({}, {WEB: Attempts(20, tuple(map(str, range(20))))})
    assert counted[WEB] == Tried(20, 20, tuple(map(str, range(12, 20))))
    heard, _ = Heard().hear([bulletin(1, Tried(0))], "r1")
    assert heard.hear([bulletin(1, counted[WEB])], "r1")[1] == {WEB: Attempts(20, counted[WEB].latest, 12)}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30), st.data())
def test_however_many_bulletins_are_lost_the_sum_is_exact(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    counted: dict[Host, Tried] = {}
    heard, _ = Heard().hear([bulletin(1, Tried(0))], "r1")
    sums = [0, 0]
    for number, (count, new) in enumerate(steps):
        names = tuple(f"{number}.{n}" for n in range(min(new, count)))
        counted = tried(counted, {WEB: Attempts(count, names)})
        if number == len(steps) - 1 or data.draw(st.booleans()):
            heard, told = heard.hear([bulletin(1, counted[WEB])], "r1")
            sums[0] += told[WEB].count
            sums[1] += len(told[WEB].new_destinations) + told[WEB].unknown
    assert sums == [sum(c for c, _ in steps), sum(min(c, n) for c, n in steps)]
    assert all(len(t.latest) <= MOST_LATEST for t in counted.values())


def test_the_number_of_hosts_that_are_told_about_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAX_HOSTS", 3)
    counted: dict[Host, Tried] = {}
    for n in range(5):
        counted = tried(counted, {Host(f"192.0.2.{n}"): Attempts(1)})
    assert list(counted) == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
