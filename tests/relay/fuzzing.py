"""Hypothesis on every run; with --full a million cases: those that Hypothesis drew, then changed and mixed ones.

Hypothesis finds the shapes, but makes some hundred cases a second; a million comes from changing a few characters
of what it drew, as programs for fuzzing do. What is parsed from a file lies in memory: to make a file on a disk
costs three milliseconds, ten times what its parser does.
"""

import multiprocessing
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy, tuples

QUICK, DRAWN, FULL = 300, 2000, 1_000_000


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


class MemoryFile:
    """A file that is on no disk, another one in each process; `path` names it within the process."""

    def __init__(self) -> None:
        self._fd, self._process = os.memfd_create("fuzzed"), os.getpid()

    @property
    def path(self) -> Path:
        """Where it can be read."""
        return Path(f"/proc/self/fd/{self._fd}")

    def write(self, text: str, errors: str = "strict") -> None:
        """The file has this text and no other."""
        if os.getpid() != self._process:
            self._fd, self._process = os.memfd_create("fuzzed"), os.getpid()
        data = text.encode("utf-8", errors)
        os.ftruncate(self._fd, 0)
        assert os.pwrite(self._fd, data, 0) == len(data)

    def close(self) -> None:
        """It is gone."""
        os.close(self._fd)


def changed(check: Callable[..., None], drawn: list[tuple[Any, ...]], size: int) -> int:
    """Goes on from what was drawn until there were `size` cases, on all processors."""
    parts, rest = len(os.sched_getaffinity(0)), size - len(drawn)
    counts = [rest // parts + (part < rest % parts) for part in range(parts)]
    with ProcessPoolExecutor(parts, multiprocessing.get_context("fork"), _here, (check, drawn)) as pool:
        return len(drawn) + sum(pool.map(_part, range(parts), counts))


def _here(check: Callable[..., None], drawn: list[tuple[Any, ...]]) -> None:
    _fuzzed[:] = [(check, drawn)]


_fuzzed: list[tuple[Callable[..., None], list[tuple[Any, ...]]]] = []


def _part(seed: int, count: int) -> int:
    [(check, drawn)], chance = _fuzzed, random.Random(seed)
    for _ in range(count):
        values = tuple(other(chance.choice(drawn)[n], chance.choice(drawn)[n], chance)
                       for n in range(len(drawn[0])))
        try:
            check(*values)
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error}: the case: {values!r}") from error
    return count


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
