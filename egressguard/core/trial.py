"""A configuration on trial: in force until its time is over, and then never again unless it was confirmed.

Which configuration is in force is a function of what is written down and of the time; nobody has to do
anything for a trial to end. What a trial adds and what lets more through carries a kernel timeout besides,
so that it ends even where nothing of egressguard is left.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from egressguard.core.plan import LEASE_TOLERANCE_S, Change, Changes
from egressguard.core.ruleset import Leases, Sets

State = Literal["proposed", "trial", "in force", "former", "refused"]
LEAST_S, MOST_S = 5.0, 86400.0
# Sets with `flags timeout` in rules/ whose elements let more through. Intervals are not among them: kernels
# before September 2025 can miss an element that one transaction removes and adds.
TEMPORARY = ("inside_if", "allow4", "allow6", "allow_mac4", "allow_mac6", "own_uid", "own_to4", "own_to6",
             "observed_family")
GRACE_S = 2.0  # the orderly return comes first


@dataclass(frozen=True, slots=True)
class Version:
    """A configuration that is written down; `ends_s` (monotonic, of `boot`) concerns a trial."""

    number: int
    digest: str
    state: State
    boot: str = ""
    ends_s: float = 0.0

    def left_s(self, boot: str, now_s: float) -> float:
        """How long this trial goes on; 0 when it is none, or over."""
        on_trial = self.state == "trial" and self.boot == boot
        return max(0.0, self.ends_s - now_s) if on_trial else 0.0


def in_force(versions: Iterable[Version], boot: str, now_s: float) -> Version | None:
    """The version to enforce: the trial that goes on, otherwise the last one that was put in force."""
    known = list(versions)
    trials = [v for v in known if v.left_s(boot, now_s)]
    return next(iter(trials), next((v for v in known if v.state == "in force"), None))


def unconfirmed(versions: Iterable[Version], digest: str, boot: str, now_s: float) -> bool:
    """Whether the configuration with this digest was tried and not confirmed: no start may take it over."""
    return any(v.digest == digest and v.state in ("trial", "refused") and not v.left_s(boot, now_s)
               for v in versions)


def temporary(want: Sets, former: Sets, left_s: float) -> Leases:
    """What a trial adds to let more through, with the time that the kernel gives it."""
    return {name: dict.fromkeys(want[name] - former[name], left_s + GRACE_S)
            for name in TEMPORARY if name in want}


def timed(changes: Changes, want: Sets, lasting: Leases, temporary: Leases) -> Changes:
    """`changes` with the times of `temporary`; elements that have a time and should have none, or the
    reverse, are removed and added in one transaction. `lasting` is what each element has left now.
    """
    by_name: Mapping[str, Change] = {change.set_name: change for change in changes}
    found = []
    for name in (*by_name, *(n for n in lasting if n not in by_name)):
        change = by_name.get(name, Change(name))
        times = temporary.get(name, {})
        wrong = {e for e, left_s in lasting.get(name, {}).items()
                 if e in want[name] and not _agrees(left_s, times.get(e, float("inf")))}
        change = replace(change, added=tuple(sorted({*change.added, *wrong})),
                         removed=tuple(sorted({*change.removed, *wrong})))
        times = {e: times[e] for e in change.added if e in times}
        if change.added or change.removed:
            found.append(replace(change, timeouts_s=times))
    return tuple(found)


def _agrees(have_s: float, want_s: float) -> bool:
    return have_s == want_s or abs(have_s - want_s) <= LEASE_TOLERANCE_S
