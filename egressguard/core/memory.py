"""What the judge remembers of a host: sums that decay, so one tuple replaces the whole past.

Everything is bounded: the destinations of the last day or two are a bitmap, the contributions that a person
may want to read are the newest few, and the retries that a queue owes are capped.
"""

import json
import struct
from hashlib import blake2b
from typing import NamedTuple

from egressguard.core.queue import Queue

NEVER = float("-inf")
BITS = 512
SATURATED = BITS // 2  # beyond it a destination that looks known may well be new
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
    before, `proven` those that a handshake was completed towards; `salt` says which bit is whose (`bit_of`).
    `before` is how many there were in the memory of a version that did not keep them.

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
    salt: int = 0


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
SUMS = struct.Struct("<7d6I")  # all that the first versions kept
KNOWN = struct.Struct("<Q2d4I")  # salt, two ages, and how long each of the following is


def salt_from(destination: str) -> int:
    """A salt that nobody can guess: Python keys its hash of text anew in every process."""
    return hash(destination) & (1 << 64) - 1 or 1


def bit_of(salt: int, destination: str, bits: int) -> int:
    """The bit that stands for `destination`: nobody without the salt can choose destinations that share one,
    and it is the same in the next process.
    """
    digest = blake2b(destination.encode(), digest_size=8, salt=salt.to_bytes(8, "little")).digest()
    return 1 << (int.from_bytes(digest, "little") % bits)


def freeze(memory: Memory, at_s: float) -> bytes:
    """What should outlive the process, as at `at_s`: but not the contributions and gaps between visits."""
    past = memory.past
    parts = [*map(_bytes, (past.bits, past.old_bits, past.proven)), _frozen_queue(past.queue, at_s)]
    ages = at_s - past.turned_s, at_s - memory.last_s
    return b"".join((SUMS.pack(*memory[:7], *memory.visits, destinations_of(memory), past.mailed),
                     KNOWN.pack(past.salt, *ages, *map(len, parts)), *parts))


def thaw(frozen: bytes | None, at_s: float) -> Memory:
    """The memory in `frozen` as at `at_s`; an empty one when it is none."""
    if frozen is None or len(frozen) < SUMS.size:
        return NOTHING
    found = SUMS.unpack_from(frozen)
    soon, regular, late, runs, before, mailed = found[7:]
    past = Past(before=before, mailed=mailed, told_s=at_s)
    memory = NOTHING._replace(**dict(zip(Memory._fields[:7], found, strict=False)),
                              visits=(soon, regular, late, runs), past=past)
    try:
        return _with_known(memory, frozen[SUMS.size:], at_s) if len(frozen) > SUMS.size else memory
    except (struct.error, ValueError, TypeError):
        return NOTHING


def _with_known(memory: Memory, frozen: bytes, at_s: float) -> Memory:
    salt, turned_ago_s, last_ago_s, *lengths = KNOWN.unpack_from(frozen)
    parts, begin = [], KNOWN.size
    for length in lengths:
        parts.append(frozen[begin:begin + length])
        begin += length
    bits, old_bits, proven = (int.from_bytes(part, "little") for part in parts[:3])
    return memory._replace(last_s=at_s - last_ago_s, past=memory.past._replace(
        bits=bits, old_bits=old_bits, turned_s=at_s - turned_ago_s, proven=proven, salt=salt,
        before=0 if bits | old_bits else memory.past.before,
        queue=_thawed_queue(parts[3], at_s)))


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def _frozen_queue(queue: Queue | None, at_s: float) -> bytes:
    """A queue with ages in place of times."""
    if queue is None:
        return b""
    owed, again = ({destination: at_s - tried_s for destination, tried_s in debts.items()}
                   for debts in (queue.owed, queue.again))
    doubt_s = max(0.0, queue.doubt_until_s - at_s)
    return json.dumps([
        at_s - queue.began_s, queue.until_s - at_s, queue.budget, owed, sorted(queue.known), queue.left,
        at_s - queue.at_s, queue.suspicion, queue.paid, queue.unpaid, queue.relayed, again, doubt_s,
        queue.debt]).encode()


def _thawed_queue(frozen: bytes, at_s: float) -> Queue | None:
    if not frozen:
        return None
    began, until, budget, owed, known, left, at, *rest = json.loads(frozen)
    counts, (again, doubt_s, *debt) = rest[:4], rest[4:]  # an earlier version has kept no debt
    owed, again = ({d: at_s - age for d, age in debts.items()} for debts in (owed, again))
    return Queue._make((at_s - began, at_s + until, budget, owed, frozenset(known), left, at_s - at, *counts,
                        again, at_s + doubt_s if doubt_s > 0 else NEVER, *(debt or [0.0])))


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
