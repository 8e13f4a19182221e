"""From outcomes to figures: shares with exact confidence intervals, medians, and what is aimed at."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.judge.run import Outcome
from egressguard.core.verdict import Cause

CONFIDENCE = 0.95
BENIGN_TARGET = 1 / 1000  # false alarms per host-month


@dataclass
class Figures:
    """Of one class: for spambots detection, for the others false alarms, each beside the two thresholds."""

    hosts: int
    days: float
    found: int
    suspected: int
    by_count: int
    by_share: int
    attempts: tuple[float, float] | None
    seconds: tuple[float, float] | None
    limited: tuple[float, float] | None
    held: int
    stale_s: float
    right_cause: float

    @property
    def share(self) -> float:
        """Of hosts that were called compromised."""
        return self.found / self.hosts

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's interval for that share."""
        return interval(self.found, self.hosts)

    def per_month(self, alarms: int) -> float:
        """Alarms per host-month of simulated time."""
        return alarms / (self.hosts * self.days / 30)


def figures(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of one class."""
    found = [o for o in outcomes if o.attempts is not None]
    judged = [o for o in outcomes if o.judged]
    return Figures(
        hosts=len(outcomes), days=statistics.fmean(o.days for o in outcomes), found=len(found),
        suspected=sum(o.suspect for o in outcomes), by_count=sum(o.by_count is not None for o in outcomes),
        by_share=sum(o.by_share is not None for o in outcomes),
        attempts=_middle([o.attempts for o in found if o.attempts is not None]),
        seconds=_middle([o.seconds for o in found if o.seconds is not None]),
        limited=_middle([o.limited for o in outcomes if o.limited is not None]),
        held=sum(o.held for o in outcomes), stale_s=max(o.stale_s for o in outcomes),
        right_cause=sum(o.cause is o.truth for o in judged) / len(judged) if judged else math.nan)


def _middle(values: Sequence[float]) -> tuple[float, float] | None:
    """Median and 95th percentile."""
    if not values:
        return None
    return statistics.median(values), sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def interval(k: int, n: int) -> tuple[float, float]:
    """The exact interval for a share of which `k` in `n` were seen."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if k == 0 else _root(lambda p: 1 - _below(k - 1, n, p), tail)
    high = 1.0 if k == n else _root(lambda p: 1 - _below(k, n, p), 1 - tail)
    return low, high


def at_most(k: int, n: int, p: float) -> float:
    """The chance of seeing `k` or fewer in `n` where the share is `p`."""
    return _below(k, n, p)


def at_least(k: int, n: int, p: float) -> float:
    """The chance of seeing `k` or more in `n` where the share is `p`."""
    return 1.0 if k == 0 else 1 - _below(k - 1, n, p)


def _root(rising: Callable[[float], float], wanted: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return low


def _below(k: int, n: int, p: float) -> float:
    """The chance of at most `k` in `n`."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return float(k >= n)
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p)
            + (n - i) * math.log1p(-p) for i in range(k + 1)]
    return min(1.0, math.fsum(map(math.exp, logs)))


def is_bot(outcomes: Sequence[Outcome]) -> bool:
    """Whether these are spambots."""
    return outcomes[0].truth is Cause.SPAMBOT
