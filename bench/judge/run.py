"""One simulated host through the judge, and through two thresholds beside it."""

import random
from collections import deque
from dataclasses import dataclass

from bench.judge.hosts import CLASSES, DAY_S, Simulated
from bench.judge.parameters import Parameters
from egressguard.core.attempts import Attempts
from egressguard.core.causes import likeliest
from egressguard.core.detection import judge, judge_reports
from egressguard.core.hosts import Host
from egressguard.core.replay import Event, Recount
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause, State, Verdict

HOST = Host("198.51.100.12")
PERIOD_S = 0.25
WINDOW_S = 600.0
# The rivals, in SPOT's manner: so many attempts in ten minutes; such a share of new ones among enough of
# them.
COUNT_THRESHOLD = 20
SHARE_THRESHOLD, SHARE_OF_AT_LEAST = 0.5, 6
CAUSE_AFTER_S = 3 * DAY_S  # a benign host's cause is asked so long after its first attempt


@dataclass
class Outcome:
    """What became of one host; `attempts` and `seconds` to `compromised`, None when it never was."""

    truth: Cause
    days: float = 0.0
    attempts: int | None = None
    seconds: float | None = None
    suspect: bool = False
    cause: Cause = Cause.UNKNOWN
    judged: bool = False
    by_count: int | None = None
    by_share: int | None = None


class Thresholds:
    """What counting would say: when each rival raises its alarm, in attempts."""

    def __init__(self) -> None:
        self.total = 0
        self.by_count: int | None = None
        self.by_share: int | None = None
        self._window: deque[tuple[float, int, int]] = deque()
        self._count = self._new = 0

    def add(self, attempts: Attempts, now_s: float) -> None:
        """Some more attempts."""
        new = len(attempts.new_destinations)
        self._window.append((now_s, attempts.count, new))
        self.total += attempts.count
        self._count, self._new = self._count + attempts.count, self._new + new
        while self._window[0][0] < now_s - WINDOW_S:
            _, count, gone = self._window.popleft()
            self._count, self._new = self._count - count, self._new - gone
        if self.by_count is None and self._count >= COUNT_THRESHOLD:
            self.by_count = max(COUNT_THRESHOLD, self.total - attempts.count + 1)
        if self.by_share is None and self._count >= SHARE_OF_AT_LEAST \
                and self._new >= SHARE_THRESHOLD * self._count:
            self.by_share = max(SHARE_OF_AT_LEAST, self.total - attempts.count + 1)


def simulate(name: str, p: Parameters, seed: int, detection: Detection) -> Outcome:
    """The host of class `name` that `seed` makes."""
    return follow(CLASSES[name](random.Random(f"{name}/{seed}"), p), detection)


def follow(host: Simulated, detection: Detection) -> Outcome:
    """Feeds the host's visits to all three until it is found, or its time is over."""
    found, rivals, recount = Outcome(host.truth, host.horizon_s / DAY_S), Thresholds(), Recount()
    verdicts: dict[Host, Verdict] = {}
    report = next(host.reports, None)
    now_s, first_s, total = 0.0, None, 0
    for at_s, addresses in host.visits:
        if at_s > host.horizon_s:
            break
        now_s = max(now_s, (at_s // PERIOD_S + 1) * PERIOD_S)
        while report is not None and report[0] <= now_s:
            verdicts |= judge_reports(verdicts, {HOST: report[1]}, detection, report[0])
            report = next(host.reports, None)
        if not found.judged and first_s is not None and now_s > first_s + CAUSE_AFTER_S:
            found.judged, found.cause = True, _cause(verdicts[HOST])
        first_s = now_s if first_s is None else first_s
        attempts = recount.attempts((Event(now_s, HOST, a) for a in addresses), now_s)
        settling = now_s < host.settling_until_s
        verdicts |= judge(verdicts, attempts, detection, now_s, settling=settling)
        rivals.add(attempts[HOST], now_s)
        total += len(addresses)
        state = verdicts[HOST].state
        found.suspect = found.suspect or state is not State.CLEAN
        if state is State.COMPROMISED and found.attempts is None:
            found.attempts, found.seconds = total, now_s - first_s
            found.cause, found.judged = verdicts[HOST].cause, True
            if host.truth is Cause.SPAMBOT or (rivals.by_count and rivals.by_share):
                break
    if not found.judged and HOST in verdicts:
        found.cause, found.judged = _cause(verdicts[HOST]), total > 0
    found.by_count, found.by_share = rivals.by_count, rivals.by_share
    return found


def _cause(verdict: Verdict) -> Cause:
    return likeliest(verdict.memory, verdict.state)
