"""Hypothesis on every run; with --full a million cases: those that Hypothesis drew, then changed and mixed ones.

Hypothesis finds the shapes, but makes some hundred cases a second; a million comes from changing a few characters
of what it drew, as programs for fuzzing do.
"""

import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy, tuples

QUICK, DRAWN, FULL = 300, 10_000, 1_000_000


def fuzz(full: bool, check: Callable[..., None], *strategies: SearchStrategy[Any]) -> int:
    """Calls `check` with values of `strategies`; an exception is a failure. Returns the number of cases."""
    drawn: list[tuple[Any, ...]] = []

    def recorded(values: tuple[Any, ...]) -> None:
        drawn.append(values)
        check(*values)
    sized = settings(max_examples=DRAWN if full else QUICK, deadline=None, database=None,
                     suppress_health_check=list(HealthCheck))
    sized(given(tuples(*strategies))(recorded))()
    return changed(check, drawn, FULL) if full else len(drawn)


def changed(check: Callable[..., None], drawn: list[tuple[Any, ...]], size: int) -> int:
    """Goes on from what was drawn until there were `size` cases."""
    chance = random.Random(size)
    for _ in range(len(drawn), size):
        values = tuple(other(chance.choice(drawn)[n], chance.choice(drawn)[n], chance)
                       for n in range(len(drawn[0])))
        try:
            check(*values)
        except BaseException as error:
            error.add_note(f"the case: {values!r}")
            raise
    return size


def other(value: Any, another: Any, chance: random.Random) -> Any:
    """`value` with a piece of it gone, twice, swapped for one of `another`, or with a bit of it changed."""
    if not isinstance(value, str | bytes) or type(value) is not type(another):
        return value
    for _ in range(chance.randrange(4)):
        at, end = sorted(chance.randrange(len(value) + 1) for _ in range(2))
        begin = chance.randrange(len(another) + 1)
        new: Any = chance.choice((value[:0], another[begin:begin + chance.randrange(12)], value[at:end] * 2, noise(value, chance)))
        value = value[:at] + new + value[min(end, at + chance.randrange(12)):]
    return value[:2000]


def noise(like: str | bytes, chance: random.Random) -> str | bytes:
    """A character or byte that is likely to matter."""
    if isinstance(like, bytes):
        return bytes([chance.choice((0, 1, 10, 34, 92, 127, 128, 255, chance.randrange(256)))])
    return chance.choice("\0\t\n\r \"'#\\{}[]=:.,/@%\x7f\x85²ü\u2028\ud800" + chr(chance.randrange(1, 0x3000)))
