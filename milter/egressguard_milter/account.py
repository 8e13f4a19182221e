"""What one key has used: cumulative counts at the moments when something was accepted.

The law: a stamp counts for at least its whole window, and at most one 64th of the window longer (at least
1/16 s). So no more than the limit passes in any window, and a place comes back that much late at worst.
"""

import struct
from bisect import bisect_right
from enum import IntEnum
from math import ceil

TICKS_PER_S = 16
PRECISION_BITS = 6  # a stamp of age a may be moved by less than a / 64
THIN_AT = 64  # up to so many stamps every one is kept as it is
LONG_AGO = -(1 << 40)
KINDS = 4
HEAD_BYTES = struct.calcsize("=Bq")
POOL_SHIFT = 4


class Kind(IntEnum):
    """What is counted over time."""

    CONNECTIONS = 0
    MESSAGES = 1
    RECIPIENTS = 2
    REFUSED = 3


class Pool(IntEnum):
    """Which capacity an account belongs to, so that no kind of key can push out another."""

    KNOWN = 0
    STRANGER = 1
    SENDER = 2
    OVERFLOW = 3


Amounts = tuple[int, int, int, int]


class Account:
    """One key while it is in use; `freeze` makes it bytes: small, and nothing for the garbage collector.

    `ticks[0]` stands for everything that no longer counts. `sums` are running totals, so a window's use
    is one subtraction, and leaving a stamp out moves its count to the next one. `spare` is the ledger's: so
    much more passes under the claim `spare_of` before any of its limits must be asked.
    """

    __slots__ = ("holders", "key", "open", "pool", "reserved", "spare", "spare_of", "sums", "thin_at",
                 "ticks")

    def __init__(self, key: str, pool: Pool) -> None:
        self.key, self.pool = key, pool
        self.ticks = [LONG_AGO]
        self.sums: tuple[list[int], ...] = ([0], [0], [0], [0])
        self.thin_at = THIN_AT
        self.reserved = [0] * KINDS  # by open transactions
        self.open = 0
        self.holders = 0
        self.spare = 0
        self.spare_of: object = None

    def used(self, kind: Kind, window_s: float, now_s: float) -> int:
        """How much of `kind` counts in the window that ends now, reservations left out."""
        sums = self.sums[kind]
        return sums[-1] - sums[bisect_right(self.ticks, (now_s - window_s) * TICKS_PER_S) - 1]

    def total(self, kind: Kind) -> int:
        """How much of `kind` is remembered, reservations included: no less than what counts in any window."""
        sums = self.sums[kind]
        return sums[-1] - sums[0] + self.reserved[kind]

    def free_at_s(self, kind: Kind, window_s: float, now_s: float, leaving: int) -> float:
        """When `leaving` of what counts now will have left the window."""
        sums = self.sums[kind]
        first = bisect_right(self.ticks, (now_s - window_s) * TICKS_PER_S)
        index = bisect_right(sums, sums[first - 1] + leaving - 1)
        return self.ticks[min(index, len(self.ticks) - 1)] / TICKS_PER_S + window_s

    def stamp(self, amounts: Amounts, now_s: float) -> None:
        """So much was accepted at `now_s`."""
        tick, ticks = ceil(now_s * TICKS_PER_S), self.ticks
        if tick > ticks[-1]:
            ticks.append(tick)
            for sums in self.sums:
                sums.append(sums[-1])
            if len(ticks) > self.thin_at:
                self._thin(tick)
        # An earlier tick than the newest: threads read the clock before they get the lock.
        (a, b, c, d), (connections, messages, recipients, refused) = self.sums, amounts
        if messages:
            b[-1] += messages
        if recipients:
            c[-1] += recipients
        if connections or refused:
            a[-1] += connections
            d[-1] += refused

    def prune(self, horizon_s: float, now_s: float) -> None:
        """Forgets what is older than every window."""
        before = (now_s - horizon_s) * TICKS_PER_S
        if len(self.ticks) == 1 or self.ticks[1] > before:
            return
        gone = bisect_right(self.ticks, before) - 1
        if gone > 0:
            for column in (self.ticks, *self.sums):
                del column[:gone]
            self.ticks[0] = LONG_AGO

    def idle(self) -> bool:
        """Whether nothing in it counts or is held."""
        return len(self.ticks) == 1 and not self.holders

    def stamps(self) -> list[tuple[int, Amounts]]:
        """Every tick that still counts, and what was accepted then."""
        a, b, c, d = self.sums
        return [(self.ticks[i], (a[i] - a[i - 1], b[i] - b[i - 1], c[i] - c[i - 1], d[i] - d[i - 1]))
                for i in range(1, len(self.ticks))]

    def _thin(self, now: int) -> None:
        """Merges neighbours in cells of a power of two ticks, at most a 64th of their age.

        The cells of one size lie inside those of the next, so merging again never adds up the delays.
        """
        keep = [0]
        for i in range(1, len(self.ticks) - 1):
            cell = ((now - self.ticks[i + 1]) >> PRECISION_BITS).bit_length() - 1
            if cell < 1 or (self.ticks[i] - 1) >> cell != (self.ticks[i + 1] - 1) >> cell:
                keep.append(i)
        keep.append(len(self.ticks) - 1)
        self.ticks[:] = [self.ticks[i] for i in keep]
        for sums in self.sums:
            sums[:] = [sums[i] for i in keep]
        self.thin_at = max(THIN_AT, 2 * len(self.ticks))

    def freeze(self) -> bytes:
        """Its stamps as bytes: the newest tick, how much older the others are, and the kinds that occur.

        4 bytes for each stamp and 4 per kind.
        """
        kinds = [k for k in range(KINDS) if self.sums[k][-1] != self.sums[k][0]]
        count = len(self.ticks) - 1
        newest = self.ticks[-1]
        words = [newest - tick for tick in self.ticks[-2:0:-1]]
        for kind in kinds:
            sums = self.sums[kind]
            words += [sums[i] - sums[i - 1] for i in range(count, 0, -1)]
        mask = sum(1 << k for k in kinds) | self.pool << POOL_SHIFT
        return struct.pack(f"=Bq{len(words)}I", mask, newest, *words)


def thaw(key: str, frozen: bytes) -> Account:
    """The account of `key` that `freeze` made bytes."""
    account = Account(key, pool_of(frozen))
    kinds = [k for k in range(KINDS) if frozen[0] >> k & 1]
    newest, *words = struct.unpack_from(f"=q{(len(frozen) - HEAD_BYTES) // 4}I", frozen, 1)
    if newest == LONG_AGO:
        return account
    count = (len(words) + 1) // (1 + len(kinds))
    account.ticks += [*(newest - older for older in reversed(words[:count - 1])), newest]
    for kind in range(KINDS):
        sums = account.sums[kind]
        if kind in kinds:
            begin = count * (1 + kinds.index(kind)) - 1
            for amount in reversed(words[begin:begin + count]):
                sums.append(sums[-1] + amount)
        else:
            sums += [0] * count
    return account


def pool_of(frozen: bytes) -> Pool:
    """The pool of a frozen account."""
    return Pool(frozen[0] >> POOL_SHIFT)


def newest_s(frozen: bytes) -> float:
    """When something was last accepted in a frozen account."""
    tick: int = struct.unpack_from("=q", frozen, 1)[0]
    return tick / TICKS_PER_S
