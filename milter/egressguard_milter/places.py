"""Where accounts live: in use as objects, otherwise as bytes in shards, each pool with its own capacity.

A key without room for an account shares its network's, and at the very worst everybody else's: with one
client's limit for all of them. Nothing passes unlimited, and whoever has an account or is named in the
policy is not touched by a flood of strangers. A new account begins with what its key may have used, or has
reserved, in a shared one, so that moving never gives anybody a second limit.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from egressguard_milter.account import TICKS_PER_S, Account, Amounts, Pool, newest_s, pool_of, thaw
from egressguard_milter.records import Memory, Record

SHARD_SIZE = 4096  # sweeping so many frozen accounts takes about a millisecond
MOST_RESTING = 1024  # kept as objects, since a key that was used is used again soon
SWEPT_RESTING = 256
OVERFLOW_SHARE = 16
MIN_OVERFLOW = 16
REST = {Pool.KNOWN: "every other known client", Pool.STRANGER: "every other client",
        Pool.SENDER: "every other sender", Pool.OVERFLOW: "every other client"}


class Places:
    """The accounts by key. Not safe for threads: the ledger's lock is around it."""

    def __init__(self, horizon_s: float, capacity: int, memory: Memory) -> None:
        self._memory = memory
        self._hot: dict[str, Account] = {}
        # In no use, but used a moment ago; oldest first. An OrderedDict, as a dict would walk over the gaps.
        self._resting: OrderedDict[str, None] = OrderedDict()
        self._count = dict.fromkeys(Pool, 0)
        self._shards: list[dict[str, bytes]] = []
        self._next_shard = 0
        self._sweep_at_s = float("-inf")
        self.resize(horizon_s, capacity)

    def resize(self, horizon_s: float, capacity: int) -> None:
        """Sets the longest window, and how many accounts each pool may have."""
        self._horizon_s = horizon_s
        self._capacity = dict.fromkeys(Pool, capacity)
        self._capacity[Pool.OVERFLOW] = max(MIN_OVERFLOW, capacity // OVERFLOW_SHARE)
        number = 1 << (3 * capacity // SHARD_SIZE).bit_length()
        if number > len(self._shards):
            old, self._shards = self._shards, [{} for _ in range(number)]
            for shard in old:
                for key, frozen in shard.items():
                    self._shard(key)[key] = frozen

    def take(self, key: str, pool: Pool, neighbours: str, now_s: float) -> Account:
        """The account that pays for `key`, in use until `put_back`."""
        account = self._hot.get(key) or self._find(key) or self._place(key, pool, neighbours, now_s)
        if account.holders:
            account.holders += 1
        else:
            self._resting.pop(account.key, None)
            account.holders = 1
        return account

    def prune(self, account: Account, now_s: float) -> None:
        """Forgets of an account what has left every window."""
        account.prune(self._horizon_s, now_s)

    def put_back(self, account: Account, now_s: float) -> None:
        """Ends one use of an account."""
        account.holders -= 1
        if account.holders:
            return
        if account.idle():
            del self._hot[account.key]
            self._count[account.pool] -= 1
            return
        self._resting[account.key] = None
        if len(self._resting) > MOST_RESTING:
            oldest = next(iter(self._resting))
            del self._resting[oldest]
            self._freeze(oldest, now_s)

    def restore(self, key: str, pool: Pool, stamps: Iterable[tuple[Amounts, float]], now_s: float) -> None:
        """Puts stamps of an earlier process, oldest first, into the account of exactly this key, whatever the
        capacity.
        """
        account = self._find(key) or self._new(key, pool)
        for amounts, at_s in stamps:
            account.stamp(amounts, at_s)
        if not account.holders:
            self._resting.pop(key, None)
            self._freeze(key, now_s)

    def peek(self, key: str) -> Account | None:
        """The account of `key` to look at, if it has one."""
        account = self._hot.get(key)
        if account is None:
            frozen = self._shard(key).get(key)
            return thaw(key, frozen) if frozen is not None else None
        return account

    def payer(self, key: str, pool: Pool, neighbours: str) -> str:
        """The key of the account that pays for `key`; where `take` would make one, `key` itself."""
        if self._count[pool] < self._capacity[pool] or self.peek(key) is not None:
            return key
        return next((shared for shared in _shared(pool, neighbours) if shared and self.peek(shared)), key)

    def forgive(self, key: str) -> bool:
        """Drops the stamps of `key`; whether there were any."""
        account = self._hot.get(key)
        if account is not None:
            fresh = Account(key, account.pool)
            had = len(account.ticks) > 1
            account.ticks, account.sums, account.thin_at = fresh.ticks, fresh.sums, fresh.thin_at
            return had
        frozen = self._shard(key).pop(key, None)
        if frozen is not None:
            self._count[pool_of(frozen)] -= 1
        return frozen is not None

    def sweep(self, now_s: float) -> None:
        """Forgets what no longer counts in one shard, when its turn has come."""
        if now_s < self._sweep_at_s:
            return
        self._sweep_at_s = now_s + self._horizon_s / len(self._shards) / 4
        self._sweep_next(now_s)

    def keys(self) -> list[str]:
        """Every key that has an account."""
        return [*self._hot, *(key for shard in self._shards for key in shard)]

    def census(self) -> dict[str, int]:
        """How many accounts each pool has."""
        return {pool.name.lower(): count for pool, count in self._count.items()}

    def __len__(self) -> int:
        return sum(self._count.values())

    def _freeze(self, key: str, now_s: float) -> None:
        account = self._hot.pop(key)
        account.prune(self._horizon_s, now_s)
        if account.idle():
            self._count[account.pool] -= 1
        else:
            self._shard(key)[key] = account.freeze()

    def _shard(self, key: str) -> dict[str, bytes]:
        return self._shards[hash(key) & (len(self._shards) - 1)]

    def _find(self, key: str) -> Account | None:
        account = self._hot.get(key)
        if account is None:
            frozen = self._shard(key).pop(key, None)
            if frozen is not None:
                account = self._hot[key] = thaw(key, frozen)
        return account

    def _new(self, key: str, pool: Pool) -> Account:
        self._count[pool] += 1
        account = self._hot[key] = Account(key, pool)
        return account

    def _place(self, key: str, pool: Pool, neighbours: str, now_s: float) -> Account:
        """A new account, or a shared one where there is no room for it."""
        neighbours, rest = _shared(pool, neighbours)
        if self._has_room(pool, now_s):
            return self._heir(key, pool, (neighbours, rest), now_s)
        if neighbours:
            account = self._find(neighbours)
            if account is not None:
                return account
            if self._has_room(Pool.OVERFLOW, now_s):
                return self._heir(neighbours, Pool.OVERFLOW, (rest,), now_s)
        return self._find(rest) or self._new(rest, Pool.OVERFLOW)

    def _heir(self, key: str, pool: Pool, shared: tuple[str, ...], now_s: float) -> Account:
        """A new account with the stamps of the first shared one there is; it has the others' as well."""
        account = self._new(key, pool)
        if not self._count[Pool.OVERFLOW]:
            return account
        source = next((found for found in map(self.peek, shared) if found), None)
        if source is not None:
            source.prune(self._horizon_s, now_s)
            stamps = [(tick / TICKS_PER_S, amounts) for tick, amounts in source.stamps()]
            if any(source.reserved):  # what is on its way there may be this key's
                a, b, c, d = source.reserved
                stamps.append((now_s, (a, b, c, d)))
            for at_s, amounts in stamps:
                account.stamp(amounts, at_s)
            self._memory.write([Record(key, pool, amounts, at_s) for at_s, amounts in stamps])
        return account

    def _has_room(self, pool: Pool, now_s: float) -> bool:
        if self._count[pool] >= self._capacity[pool]:
            self.sweep(now_s)
        return self._count[pool] < self._capacity[pool]

    def _sweep_next(self, now_s: float) -> None:
        self._next_shard = (self._next_shard + 1) % len(self._shards)
        for key in list(islice(self._resting, SWEPT_RESTING)):
            del self._resting[key]
            self._freeze(key, now_s)
        shard, before_s = self._shards[self._next_shard], now_s - self._horizon_s
        for key in [key for key, frozen in shard.items() if newest_s(frozen) <= before_s]:
            self._count[pool_of(shard.pop(key))] -= 1


def _shared(pool: Pool, neighbours: str) -> tuple[str, str]:
    """The keys that share where there is no room: its neighbours' (empty: none), and everybody else's.

    What strangers used up is none of a known client's use.
    """
    known = "known " if neighbours and pool is Pool.KNOWN else ""
    return f"{known}{neighbours}", REST[pool]
