"""Hypothesis with a size that the command line sets: some hundred cases on every run, a million with --full."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

QUICK, FULL = 300, 1_000_000


def fuzz(full: bool, check: Callable[..., None], *strategies: SearchStrategy[Any]) -> None:
    """Calls `check` with values of `strategies`; an exception is a failure."""
    sized = settings(max_examples=FULL if full else QUICK, deadline=None, database=None,
                     suppress_health_check=list(HealthCheck))
    sized(given(*strategies)(check))()
