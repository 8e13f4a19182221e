"""A verb and the daemon carry out the same order at the same time."""

import pytest

from egressguard.cli import orders
from egressguard.core.errors import KernelError


class Raced:
    """An enforcement whose elements somebody else removes between the look and the change, `times` times."""

    def __init__(self, times: int) -> None:
        self.times, self.applied, self.faults = times, 0, dict[str, str]()

    def loaded(self) -> bool:
        return True

    def apply(self, now_s: float) -> None:
        self.applied += 1
        if self.applied <= self.times:
            raise KernelError("changing set elements: No such file or directory")


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_verb_looks_again_when_the_daemon_was_faster(times: int) -> None:
    raced = Raced(times)
    orders._carry_out(raced)  # type: ignore[arg-type]
    assert raced.applied == times + 1


def test_what_fails_each_time_is_an_error() -> None:
    with pytest.raises(KernelError):
        orders._carry_out(Raced(3))  # type: ignore[arg-type]
