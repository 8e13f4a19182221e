"""A command and the daemon carry out the same order at the same time, in whichever table."""

from typing import Any

import pytest

from egressguard.core.errors import KernelError
from egressguard.core.plan import Change, Changes
from egressguard.loading import LOOKS_AGAIN, Loading

WANTED = (Change("exception4", removed=(("web", "198.51.100.12"),)),)


class Raced:
    """A table whose elements somebody else removes between the look and the change, `times` times; the last
    time he has done all that there was to do, if he was `through`.
    """

    def __init__(self, times: int, *, through: bool = False) -> None:
        self.times, self.through, self.tried = times, through, list[Changes]()

    def loaded(self) -> bool:
        return True

    def owned_elsewhere(self) -> bool:
        return False

    def differing(self, _now_s: float, _lost: Any = ()) -> Changes:
        return () if self.through and len(self.tried) >= self.times else WANTED

    def apply(self, changes: Changes) -> None:
        self.tried.append(changes)
        if len(self.tried) <= self.times:
            raise KernelError("changing set elements: No such file or directory")


def put_right(raced: Raced) -> Changes:
    table: Any = raced
    return Loading(table, table, table).put_right(0.0)


@pytest.mark.parametrize("times", range(LOOKS_AGAIN + 1))
def test_who_comes_second_looks_again(times: int) -> None:
    raced = Raced(times)
    assert put_right(raced) == WANTED
    assert raced.tried == [WANTED] * (times + 1)


def test_what_the_other_one_has_done_is_no_change_of_ours() -> None:
    raced = Raced(1, through=True)
    assert put_right(raced) == ()
    assert raced.tried == [WANTED, ()]


def test_what_fails_each_time_is_an_error() -> None:
    with pytest.raises(KernelError):
        put_right(Raced(LOOKS_AGAIN + 1))
