"""What the judge remembers of a host: sums that decay, so one tuple replaces the whole past.

Everything is bounded: the destinations of the last day or two are a bitmap, the contributions that a person
may want to read are the newest few, and the retries that a queue owes are capped.
"""

import struct
from typing import NamedTuple

from egressguard.core.queue import Queue

NEVER = float("-inf")
BITS = 512
SATURATED = BITS // 2  # from here on a destination that looks known may well be new: it is taken for new
GENERATION_S = 86400.0
CONTRIBUTIONS = 16
TOGETHER_S = 60.0
SAMPLES = 3
MOST_VISITS = 64


class Contribution(NamedTuple):
    """One thing that moved a score: what, how often, by how much when it happened, and examples.

    `weight` is in nats; `times` of one `kind` between `first_s` and `at_s` are told as one.
    """

    first_s: float
    at_s: float
    kind: str
    times: int
    weight: float
    samples: tuple[str, ...] = ()


class Past(NamedTuple):
    """What seldom changes. `bits` and `old_bits` are the destinations tried since `turned_s`, and the day
    before; `before` is how many there were when the process began, `proven` are those that a handshake was
    completed towards.

    `mailed` is to how many domains the host has mailed through relays, as last told at `told_s`; `relayed_s`
    is when a relay last took mail from it; `queue` is what a mail server there would owe.
    """

    bits: int = 0
    old_bits: int = 0
    turned_s: float = NEVER
    mailed: int = 0
    told_s: float = NEVER
    relayed_s: float = NEVER
    queue: Queue | None = None
    contributions: tuple[Contribution, ...] = ()
    before: int = 0
    proven: int = 0


NO_PAST = Past()
NO_VISITS = (0, 0, 0, 0)


class Memory(NamedTuple):
    """The decayed sums as at a verdict's `at_s`, in nats, and what came before.

    `gained` is what new destinations have added; `application`, `prober` and `mta` what repetitions say for
    each benign cause; `relays` what reports add; `verified` what handshakes towards different
    destinations weigh; `recent` counts the new destinations, decayed as well. `visits` counts the visits by
    kind (causes.py), `gaps` are the seconds between the last ones, `last_s` is the time of the last attempt.
    """

    gained: float = 0.0
    application: float = 0.0
    prober: float = 0.0
    mta: float = 0.0
    relays: float = 0.0
    verified: float = 0.0
    recent: float = 0.0
    visits: tuple[int, int, int, int] = NO_VISITS
    last_s: float = NEVER
    gaps: tuple[float, ...] = ()
    past: Past = NO_PAST


NOTHING = Memory()
LASTING = struct.Struct("<7d6I")


def freeze(memory: Memory) -> bytes:
    """What should outlive the process, as bytes; destinations and what a queue owes are not worth a write."""
    return LASTING.pack(*memory[:7], *memory.visits, destinations_of(memory), memory.past.mailed)


def thaw(frozen: bytes | None, at_s: float) -> Memory:
    """The memory in `frozen` as at `at_s`; an empty one when it is none."""
    if frozen is None or len(frozen) != LASTING.size:
        return NOTHING
    found = LASTING.unpack(frozen)
    soon, regular, late, runs, before, mailed = found[7:]
    past = Past(before=before, mailed=mailed, told_s=at_s)
    return NOTHING._replace(**dict(zip(Memory._fields[:7], found, strict=False)),
                            visits=(soon, regular, late, runs), past=past)


def visited(visits: tuple[int, int, int, int], kind: int, times: int = 1) -> tuple[int, int, int, int]:
    """`visits` and so many more of `kind`; when there are many, the older ones count half."""
    soon, regular, late, runs = visits
    while times > 0:
        room = MOST_VISITS - (soon + regular + late + runs)
        if room <= 0:
            soon, regular, late, runs = soon >> 1, regular >> 1, late >> 1, runs >> 1
            continue
        more = min(times, room)
        times -= more
        soon, regular, late, runs = (soon + more * (kind == 0), regular + more * (kind == 1),
                                     late + more * (kind == 2), runs + more * (kind == 3))
    return soon, regular, late, runs


def destinations_of(memory: Memory) -> int:
    """About how many destinations the host has tried within the last day or two."""
    past = memory.past
    return max((past.bits | past.old_bits).bit_count(), past.before)


def with_contribution(old: tuple[Contribution, ...], now_s: float, kind: str, times: int, weight: float,
                      samples: tuple[str, ...] = ()) -> tuple[Contribution, ...]:
    """`old` and one more, joined to the last one when that is of the same kind and time."""
    if old:
        last = old[-1]
        if last.kind == kind and now_s - last.first_s < TOGETHER_S:
            return (*old[:-1], Contribution(last.first_s, now_s, kind, last.times + times,
                                            last.weight + weight, (*last.samples, *samples)[:SAMPLES]))
    return (*old[-CONTRIBUTIONS + 1:], Contribution(now_s, now_s, kind, times, weight, samples[:SAMPLES]))
