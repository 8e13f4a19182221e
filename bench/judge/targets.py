"""What is aimed at, and whether it was reached: of each class, and of all classes together.

A share that is seen in some hosts is not the share of all. So a target is `met` when the whole interval lies
on its side, `missed` when the interval lies on the other, and `open` when there were too few hosts to tell.
The sums over all classes must be met; a class may be open, since it has fewer hosts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.judge.classes import WITHOUT_TARGET
from bench.judge.figures import BENIGN_TARGET, figures, interval, is_bot
from bench.judge.parameters import EVALUATION
from bench.judge.run import Outcome, may_stay_s
from egressguard.core.settings import Detection

FOUND, RIGHT, MEDIAN = 0.99, 0.9, 6
MAILING = "spambot, host mails by relay"
MOST_OF_ONE = EVALUATION.smarthost_addresses[1]  # new destinations of an innocent owner of an address
Found = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Target:
    """One figure beside what is aimed at; `must` says that an open one is a missed one."""

    what: str
    value: str
    aim: str
    state: str
    must: bool = True

    @property
    def reached(self) -> bool:
        """Whether this is no reason to fail."""
        return self.state == "met" or (self.state == "open" and not self.must)


def targets(found: Found, detection: Detection) -> list[Target]:
    """All of them."""
    counted = {name: outcomes for name, outcomes in found.items() if name not in WITHOUT_TARGET}
    return [*_sums(counted, detection), *_medians(counted), *_each(counted, detection)]


def state_of(low: float, high: float, limit: float) -> str:
    """Of a share that should be at most `limit` and lies between `low` and `high`."""
    if high <= limit:
        return "met"
    return "open" if low <= limit else "missed"


def _at_most(what: str, k: int, n: int, limit: float, *, must: bool = True, times: float = 1.0,
             unit: str = "") -> Target:
    """A share of hosts, or `times` it."""
    low, high = (times * end for end in interval(k, n))
    seen = times * k / n
    return Target(what, f"{seen:.5f}{unit} ({low:.5f} to {high:.5f}; {k} of {n})", f"≤ {limit:g}",
                  state_of(low, high, limit), must)


def _sums(counted: Found, detection: Detection) -> list[Target]:
    bots = [o for outcomes in counted.values() if is_bot(outcomes) for o in outcomes]
    benign = [o for outcomes in counted.values() if not is_bot(outcomes) for o in outcomes]
    missed, alarms = sum(o.attempts is None for o in bots), sum(o.attempts is not None for o in benign)
    months = sum(o.days for o in benign) / 30
    judged = [o for o in (*bots, *benign) if o.judged]
    return [
        _at_most("spambots missed (detection ≥ 0.99)", missed, len(bots), 1 - FOUND),
        _at_most("spambots missed, against β", missed, len(bots), detection.missed),
        _at_most("benign hosts called compromised, against α", alarms, len(benign), detection.false_alarm),
        _at_most("false alarms per host-month", alarms, len(benign), BENIGN_TARGET,
                 times=len(benign) / months, unit=f" in {months:.0f}"),
        _at_most("benign hosts ever suspected, against its α", sum(o.suspect for o in benign), len(benign),
                 detection.suspect_false_alarm),
        _at_most("benign hosts proposed to hold, against its α", sum(o.held for o in benign), len(benign),
                 detection.hold_false_alarm, must=False),
        _at_most("spambots not proposed to hold, against β", sum(not o.held for o in bots), len(bots),
                 detection.missed, must=False),
        _at_most("wrong cause (right ≥ 0.9)", sum(o.cause is not o.truth for o in judged), len(judged),
                 1 - RIGHT),
    ]


def _medians(counted: Found) -> list[Target]:
    compromised = (figures(counted["spambot, fast"]).attempts or (math.inf, 0))[0]
    limited = (figures(counted[MAILING]).limited or (math.inf, 0))[0]
    return [_figure("median attempts to `compromised`, fast bot", compromised, MEDIAN),
            _figure("median attempts until a relay limits a bot on a host that mails by it", limited, MEDIAN)]


def _figure(what: str, value: float, limit: float) -> Target:
    return Target(what, f"{value:.0f}", f"≤ {limit:.0f}", "met" if value <= limit else "missed")


def _hours(what: str, longest_s: float, limit_s: float) -> Target:
    return Target(what, f"{longest_s / 3600:.1f} h", f"≤ {limit_s / 3600:.1f} h",
                  "met" if longest_s <= limit_s else "missed")


def _each(counted: Found, detection: Detection) -> list[Target]:
    result = []
    for name, outcomes in counted.items():
        alarms, hosts = sum(o.attempts is not None for o in outcomes), len(outcomes)
        months = sum(o.days for o in outcomes) / 30
        result.append(
            _at_most(f"{name}: missed", hosts - alarms, hosts, 1 - FOUND, must=False) if is_bot(outcomes) else
            _at_most(f"{name}: false alarms per host-month", alarms, hosts, BENIGN_TARGET, must=False,
                     times=hosts / months))
    heirs, has = counted["DHCP, after a spambot"], "has a spambot's verdict with its address"
    return [*result,
            _hours(f"who {has} and tries nothing", max(o.silent_s for o in heirs), may_stay_s(detection)),
            _hours(f"who {has} and a misconfigured application", max(o.stale_s for o in heirs),
                   may_stay_s(detection, MOST_OF_ONE))]


def calibration(found: Found, detection: Detection) -> list[tuple[float, int, int]]:
    """How many benign hosts reach Wald's bound of weaker error rates with what nobody can forge: α, hosts, of
    all.

    The bound of hold is far out; whether the evidence keeps what it says shows where hosts get to.
    """
    benign = [outcomes for name, outcomes in found.items()
              if name not in WITHOUT_TARGET and not is_bot(outcomes)]
    firmest = [o.firmest for outcomes in benign for o in outcomes]
    return [(alpha, sum(firm >= math.log((1 - detection.missed) / alpha) for firm in firmest), len(firmest))
            for alpha in (1e-2, 1e-3, 1e-4, 1e-5)]
