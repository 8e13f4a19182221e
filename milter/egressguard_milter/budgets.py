"""One budget per client for several relays: counted on the exchange's server, atomically, by its clock.

A budget is a hash of a 64th of its window each, as the local accounts are precise to; a 64th counts until all
of it has left the window. What a relay takes it takes in one script, of all budgets that pay or of none.

The server may forget (a flush, a restart, a failover), so it has a life, a random word that the first script
in an empty server sets. A relay that meets another life than it knows first says again what it has counted
itself. No callback waits for a server that is away or slow: the first call that fails or is slow opens a
breaker, and another thread tries until the server answers quickly again.
"""

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from egressguard.core.errors import ExchangeError
from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange.line import Line
from egressguard.exchange.valkey import connect, key
from egressguard_milter.account import Kind
from egressguard_milter.journal import line, logger

SLOW_S = 0.05  # a server that takes longer than this for a call would hold up the relay's mail
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 8.0

COUNT = """
local function width(window) return window * 1000 / 64 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function add(k, window, age, n)
    local cell = math.floor((now - age) / width(window))
    redis.call('HINCRBY', k, cell, n)
    redis.call('PEXPIRE', k, math.ceil(window * 1000 * 66 / 64))
    return cell
end
local function used(k, window)
    local cells, sum, oldest = redis.call('HGETALL', k), 0, nil
    for i = 1, #cells, 2 do
        local cell = tonumber(cells[i])
        if (cell + 1) * width(window) <= now - window * 1000 then
            redis.call('HDEL', k, cells[i])
        else
            sum = sum + tonumber(cells[i + 1])
            if oldest == nil or cell < oldest then oldest = cell end
        end
    end
    return sum, oldest
end
local life = redis.call('GET', KEYS[1])
if not life then
    life = ARGV[1]
    redis.call('SET', KEYS[1], life)
end
if life ~= ARGV[2] then return {life, 'unknown'} end
local at = 3
local wanted = {}
for i = 2, #KEYS do
    local window, most, amount, said = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    for _ = 1, said do
        add(KEYS[i], window, tonumber(ARGV[at]), tonumber(ARGV[at + 1]))
        at = at + 2
    end
    wanted[i] = {window, most, amount}
end
for i = 2, #KEYS do
    local window, most, amount = wanted[i][1], wanted[i][2], wanted[i][3]
    if amount > 0 then
        local sum, oldest = used(KEYS[i], window)
        if sum + amount > most then
            local free = oldest and ((oldest + 1) * width(window) + window * 1000 - now) or window * 1000
            return {life, 'over', i - 2, sum, math.ceil(free)}
        end
    end
end
local cells = {life, 'taken'}
for i = 2, #KEYS do
    local amount = wanted[i][3]
    cells[#cells + 1] = amount ~= 0 and add(KEYS[i], wanted[i][1], 0, amount) or 0
end
return cells
"""  # noqa: E501
BACK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
    local cell = ARGV[2 * i - 2]
    local left = redis.call('HINCRBY', KEYS[i], cell, -tonumber(ARGV[2 * i - 1]))
    if left <= 0 then redis.call('HDEL', KEYS[i], cell) end
end
return 1
"""


class Counted(NamedTuple):
    """What is counted on the server: of whom, what, and in which window."""

    name: str
    kind: Kind
    window_s: float

    @property
    def place(self) -> str:
        """The server's key."""
        return key("budget", f"{int(self.kind)}:{self.window_s:g}", self.name)


class Budget(NamedTuple):
    """What is counted, and how much of it is allowed."""

    counted: Counted
    most: int

    @property
    def kind(self) -> Kind:
        """What kind of thing is counted."""
        return self.counted.kind

    @property
    def window_s(self) -> float:
        """For how many seconds it counts."""
        return self.counted.window_s


class Wanted(NamedTuple):
    """`amount` of a budget; before that, what this relay says again: seconds ago, and how much."""

    budget: Budget
    amount: int
    said: Sequence[tuple[float, int]] = ()


class Taken(NamedTuple):
    """Where on the server something was counted, and in which life of it, so that it can be given back."""

    life: str
    place: str
    cell: int
    amount: int


class Over(NamedTuple):
    """Which of the wanted budgets is used up, by how much, and when the first of it leaves the window."""

    place: int
    used: int
    retry_s: float


@dataclass(slots=True)
class Unknown:
    """The server has another life than was said: say again what you have counted."""

    life: str


class Away(Exception):
    """The server cannot be asked now."""


class Budgets:
    """The server's budgets. `take` and `back` are for the callbacks, `tend` for another thread."""

    def __init__(self, place: ServerPlace) -> None:
        self._place = place
        self._line: Line | None = None
        self._lock = threading.Lock()
        self._retry_at_s, self._pause_s = float("-inf"), FIRST_RETRY_S
        self._said_away = False

    @property
    def there(self) -> bool:
        """Whether the server can be asked."""
        return self._line is not None

    def take(self, life: str, wanted: Sequence[Wanted]) -> list[Taken] | Over | Unknown:
        """Takes of all budgets or of none. Raises Away."""
        words: list[Any] = [secrets.token_hex(8), life]
        for budget, amount, said in wanted:
            words += [budget.window_s, budget.most, amount, len(said)]
            for age_s, count in said:
                words += [round(age_s * 1000), count]
        places = [w.budget.counted.place for w in wanted]
        found_life, what, *rest = self._call(COUNT, [key("budget"), *places], words)
        if what == "unknown":
            return Unknown(found_life)
        if what == "over":
            place, used, retry_ms = rest
            return Over(place, used, retry_ms / 1000)
        return [Taken(life, place, cell, w.amount)
                for place, cell, w in zip(places, rest, wanted, strict=True)]

    def back(self, taken: Sequence[Taken]) -> None:
        """Gives back what was taken. Raises Away: then it counts for its window."""
        if taken:
            self._call(BACK, [key("budget"), *(t.place for t in taken)],
                       [taken[0].life, *(word for t in taken for word in (t.cell, t.amount))])

    def forgive(self, places: Sequence[str]) -> None:
        """Forgets these budgets. Raises Away."""
        if places:
            self._call("return redis.call('DEL', unpack(KEYS))", places, [])

    def tend(self, now_s: float) -> None:
        """Tries the server again when it is time."""
        if self._line is not None or now_s < self._retry_at_s:
            return
        try:
            found = connect(self._place)
            began_s = time.monotonic()
            found.exchange(("PING",))
            if time.monotonic() - began_s > SLOW_S:
                found.close()
                raise TimeoutError("it is slow")
        except (RedisError, OSError, ExchangeError) as error:
            self._failed(now_s, error)
            return
        self._pause_s = FIRST_RETRY_S
        if self._said_away:
            logger.info(line("budgets_shared_again"))
        self._said_away, self._line = False, found

    def close(self) -> None:
        """Ends the connection."""
        found, self._line = self._line, None
        if found is not None:
            found.close()

    def _call(self, script: str, keys: Sequence[str], words: Sequence[Any]) -> Any:
        with self._lock:
            return self._ask(script, keys, words)

    def _ask(self, script: str, keys: Sequence[str], words: Sequence[Any]) -> Any:
        found = self._line
        if found is None:
            raise Away
        began_s = time.monotonic()
        try:
            [reply] = found.exchange(("EVAL", script, str(len(keys)), *keys, *map(str, words)))
        except (RedisError, OSError) as error:
            self.close()
            self._failed(time.monotonic(), error)
            raise Away from error
        if time.monotonic() - began_s > SLOW_S:  # its answer counts, but it is not asked again at once
            self.close()
            self._failed(time.monotonic(), TimeoutError("it is slow"))
        return reply

    def _failed(self, now_s: float, error: Exception) -> None:
        self._retry_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LAST_RETRY_S)
        if not self._said_away:
            logger.warning(line("budgets_not_shared", reason=error,
                                effect="each relay allows its part of every limit"))
        self._said_away = True
