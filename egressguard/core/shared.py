"""Several routers see one host: what each has counted adds up, and nothing is counted twice.

A router counts what it blocks, and a blocked packet never reaches a second router, so sums are exact. Each
publishes, cumulatively since its epoch began, what it has counted of each host; the others take differences.
Whoever has just started begins with what it finds: its own past is in its verdicts, and to count a router's
past again would be to count it twice. The destinations that are new to a host are named, a few of them, so
that one that two routers saw is not new twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from egressguard.core.attempts import Attempts
from egressguard.core.documents import MAX_COUNT, MOST_LATEST, Bulletin, Tried
from egressguard.core.hosts import Host

NOTHING = Tried(0)
MAX_HOSTS = 10_000  # that a router tells about: those that tried last


def tried(before: Mapping[Host, Tried], evidence: Mapping[Host, Attempts]) -> dict[Host, Tried]:
    """What this router has counted in this epoch, after `evidence`; the most recent hosts stand last."""
    after = dict(before)
    for host, found in evidence.items():
        old = after.pop(host, NOTHING)
        if found.new_destinations or found.unknown:
            new = len(found.new_destinations) + found.unknown
            latest = (*old.latest, *found.new_destinations)[-MOST_LATEST:]
            after[host] = Tried(old.attempts + found.count, old.new + new, latest)
        else:
            after[host] = Tried(old.attempts + found.count, old.new, old.latest)
    for host in list(after)[:max(0, len(after) - MAX_HOSTS)]:
        del after[host]  # when it comes back it begins at zero, which is a smaller value, hence a new life
    return after


@dataclass(frozen=True, slots=True)
class Heard:
    """What was last heard of each other router: its epoch, and what it had counted of each host."""

    routers: Mapping[str, tuple[int, Mapping[Host, Tried]]] = field(default_factory=dict)

    def hear(self, bulletins: Iterable[Bulletin], own: str) -> tuple["Heard", dict[Host, Attempts]]:
        """With `bulletins`, and what they tell that is new; those of the router `own` are known already."""
        routers, told = dict(self.routers), dict[Host, Attempts]()
        for bulletin in bulletins:
            name, epoch = bulletin.origin.name, bulletin.origin.epoch
            if name == own:
                continue
            before = routers.get(name)
            routers[name] = epoch, bulletin.tried
            if before is None:
                continue
            counted = before[1] if before[0] == epoch else {}
            for host, now in bulletin.tried.items():
                found = _more(counted.get(host, NOTHING), now)
                if found.count:
                    told[host] = _sum(told.get(host, Attempts(0)), found)
        return Heard(routers), told


def _more(old: Tried, now: Tried) -> Attempts:
    """What was counted since `old`; a smaller value is a new life that began at zero."""
    if now.attempts < old.attempts or now.new < old.new:
        old = NOTHING
    count = min(MAX_COUNT, now.attempts - old.attempts)
    new = min(now.new - old.new, count)
    named = now.latest[-new:] if new else ()
    return Attempts(count, named, new - len(named))


def _sum(one: Attempts, other: Attempts) -> Attempts:
    """Both; what only this router can know of its own attempts stays that of `one`."""
    return one._replace(count=one.count + other.count, unknown=one.unknown + other.unknown,
                        new_destinations=one.new_destinations + other.new_destinations)


def added(evidence: Mapping[Host, Attempts], told: Mapping[Host, Attempts]) -> dict[Host, Attempts]:
    """`evidence` of this router with what the others have `told`."""
    both = {host: _sum(evidence.get(host, Attempts(0)), found) for host, found in told.items()}
    return {**evidence, **both}
