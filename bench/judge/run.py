"""One simulated host through the judge, and through two thresholds beside it."""

import math
import random
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from bench.judge.classes import CLASSES
from bench.judge.hosts import DAY_S, OWN, Simulated
from bench.judge.parameters import Parameters
from egressguard.core.attempts import Attempts
from egressguard.core.causes import likeliest
from egressguard.core.detection import judge, judge_reports
from egressguard.core.hosts import Host, host_of
from egressguard.core.replay import Event, Recount
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause, State, Verdict
from egressguard.core.weights import weights

HOST = Host(OWN)
PERIOD_S = 0.25
WINDOW_S = 600.0
# The rivals, in SPOT's manner: so many attempts in ten minutes; such a share of new ones among enough of
# them.
COUNT_THRESHOLD = 20
SHARE_THRESHOLD, SHARE_OF_AT_LEAST = 0.5, 6
CAUSE_AFTER_S = 3 * DAY_S  # a benign host's cause is asked so long after its first attempt


MORE_TO_HOLD = 100  # attempts for which a bot that was found is watched, for a proposal to hold it


@dataclass
class Outcome:
    """What became of one host; `attempts` and `seconds` to `compromised`, None when it never was; `limited`
    is how many it had made when relays were told to limit it as such.

    `firmest` is the most that no neighbour could have forged, in nats, had a listener answered every attempt,
    and `held` whether that was proposed. `stale_s`: how long an address that was a spambot's stayed
    compromised, and `silent_s` how long it would have if nobody had tried anything from it.
    """

    truth: Cause
    days: float = 0.0
    attempts: int | None = None
    seconds: float | None = None
    limited: int | None = None
    suspect: bool = False
    firmest: float = 0.0
    held: bool = False
    stale_s: float = 0.0
    silent_s: float = 0.0
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
    """Feeds the host's visits to all three until nothing more can be learnt of it, or its time is over."""
    watched = Watched(host, detection)
    for at_s, addresses, *source in host.visits:
        if at_s > host.horizon_s or watched.enough():
            break
        watched.visit(at_s, addresses, key_of(source[0]) if source else HOST)
    return watched.outcome()


@lru_cache(maxsize=1024)
def key_of(source: str) -> Host:
    """What the rules count `source` under."""
    return host_of(ip_address(source))


class Watched:
    """One host, and what the judge and the thresholds have said of it so far."""

    def __init__(self, host: Simulated, detection: Detection) -> None:
        begin_s = host.innocent_from_s or 0.0
        self.found = Outcome(host.truth, (host.horizon_s - begin_s) / DAY_S)
        self._host, self._detection, self._rivals, self._recount = host, detection, Thresholds(), Recount()
        self._verdicts: dict[Host, Verdict] = {}
        self._report = next(host.reports, None)
        self._answered = set[str]()
        self._now_s = 0.0
        self._first_s: float | None = None
        self._total = 0
        self._inherits = host.innocent_from_s is not None  # a spambot's verdict, with its address

    def visit(self, at_s: float, addresses: list[str], key: Host) -> None:
        """The host tries `addresses`, and is counted as `key`; a listener completes each handshake."""
        now_s = self._now_s = max(self._now_s, (at_s // PERIOD_S + 1) * PERIOD_S)
        self._hear(now_s)
        if at_s >= self._host.bot_from_s:
            self._ask_the_cause(now_s, key)
            self._first_s = now_s if self._first_s is None else self._first_s
            self._total += len(addresses)
        before = self._verdicts.get(key)
        if before is not None and before.until_s <= now_s:
            self._verdicts |= judge(self._verdicts, {}, self._detection, now_s)  # it has lapsed meanwhile
            before = self._verdicts[key]
        attempts = self._recount.attempts([self._event(now_s, key, a) for a in addresses], now_s)
        self._verdicts |= judge(self._verdicts, attempts, self._detection, now_s,
                                settling=now_s < self._host.settling_until_s, waning=())
        self._rivals.add(attempts[key], now_s)
        if self._innocent(at_s, before, self._verdicts[key]):
            self._note(self._verdicts[key], now_s)

    def _event(self, now_s: float, key: Host, address: str) -> Event:
        """An attempt that a listener answers; the first handshake with each destination says something."""
        first = address not in self._answered
        self._answered.add(address)
        return Event(now_s, key, address, first)

    def _hear(self, now_s: float) -> None:
        while self._report is not None and self._report[0] <= now_s:
            at_s, volume = self._report
            self._verdicts |= judge_reports(self._verdicts, {HOST: volume}, self._detection, at_s)
            self._report = next(self._host.reports, None)

    def _ask_the_cause(self, now_s: float, key: Host) -> None:
        found = self.found
        if not found.judged and self._first_s is not None and now_s > self._first_s + CAUSE_AFTER_S:
            found.judged, found.cause = True, _cause(self._verdicts[key])

    def _innocent(self, at_s: float, before: Verdict | None, now: Verdict) -> bool:
        """Whether what is said of the host now is said of itself, not of the spambot that had its address
        before.
        """
        begin_s = self._host.innocent_from_s
        if begin_s is None:
            return True
        stays_s = max(0.0, now.until_s - begin_s) if now.state is State.COMPROMISED else 0.0
        if at_s < begin_s:
            self._first_s, self._total, self._rivals = None, 0, Thresholds()
            self.found.silent_s = self.found.stale_s = stays_s
        elif before is None or before.state is State.CLEAN:
            self._inherits = False
        elif self._inherits:
            self.found.stale_s = max(self.found.stale_s, stays_s)
        return not self._inherits

    def _note(self, verdict: Verdict, now_s: float) -> None:
        found = self.found
        found.suspect |= verdict.state is not State.CLEAN
        found.firmest, found.held = max(found.firmest, verdict.firm), found.held or verdict.hold
        if verdict.told is State.COMPROMISED and found.limited is None:
            found.limited = self._total
        if verdict.state is State.COMPROMISED and found.attempts is None:
            found.attempts, found.seconds = self._total, now_s - (self._first_s or now_s)
            found.cause, found.judged = verdict.cause, True

    def enough(self) -> bool:
        """Whether nothing more can be learnt of this host."""
        found, rivals = self.found, self._rivals
        if found.attempts is None:
            return False
        if found.truth is Cause.SPAMBOT:
            return found.held or self._total > found.attempts + MORE_TO_HOLD
        return found.held and bool(rivals.by_count and rivals.by_share)

    def outcome(self) -> Outcome:
        """What became of it."""
        found, total = self.found, self._total
        if not found.judged and self._verdicts and total:
            found.cause, found.judged = _cause(max(self._verdicts.values(), key=lambda v: v.attempts)), True
        found.by_count, found.by_share = self._rivals.by_count, self._rivals.by_share
        return found


def may_stay_s(detection: Detection, more: float = 0.0) -> float:
    """How long a verdict may stand after the last attempt, by its half-life, from the highest score; and when
    so many new destinations of somebody else come just before the host would be clean.
    """
    w = weights(detection)
    highest, falls_at, clean_at = w.ceiling + w.most_from_relays, w.compromised / 2, w.suspect / 2
    if not more:
        return w.half_life_s * math.log2(highest / falls_at)
    return w.half_life_s * (math.log2(highest / clean_at) + math.log2((clean_at + more * w.new) / falls_at))


def _cause(verdict: Verdict) -> Cause:
    return likeliest(verdict.memory, verdict.state)
