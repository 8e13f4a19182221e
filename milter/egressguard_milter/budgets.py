"""One budget per client for several relays: counted on the exchange's server, atomically, by its clock.

A budget is counted in 64ths of its window, as the local accounts are precise to; a 64th counts until all of
it has left the window. What a relay takes it takes in one script, of all budgets that pay or of none.

No callback waits for a server that is away or slow: the first call that fails or is slow opens a breaker,
and another thread tries until the server answers quickly again. A relay counts as here for `here_s` after a
time of the server's that it sends back, so no call that arrives late makes it here for longer than it
believes itself.
"""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from egressguard.core.errors import ExchangeError
from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange.hedged import connect
from egressguard.exchange.line import Line
from egressguard.exchange.valkey import key
from egressguard_milter.account import Kind
from egressguard_milter.budget_scripts import BACK, FORGIVE, GREET, TAKE
from egressguard_milter.journal import line, logger
from egressguard_milter.last_life import Forgotten, LastLife

SLOW_S = 0.05  # a server that takes longer than this for a call would hold up the relay's mail
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 8.0
HERE_S = 2.0
MARGIN_S = 1.0  # two clocks do not run equally fast
AWAY = "the server is away"
BLIND = ("the server could be a copy of the past, since the relay's user on it may not ask INFO: put +info "
         "into its line of the ACL file (`egressguard exchange-setup` prints it) and ACL LOAD")
LIFE, ROLL = key("budget", "life"), key("budget", "roll")


class Counted(NamedTuple):
    """What is counted on the server: of whom, what, and in which window."""

    name: str
    kind: Kind
    window_s: float

    @property
    def place(self) -> str:
        """The server's key."""
        return key("budget", f"{int(self.kind)}:{self.window_s:g}", self.name)


class Wanted(NamedTuple):
    """`amount` of a budget of `most`; `said`, if anything: all that this relay had of it, seconds ago and how
    much, in place of what the server thinks.
    """

    counted: Counted
    most: int = 0
    amount: int = 0
    said: Sequence[tuple[float, int]] | None = None


class Taken(NamedTuple):
    """Where on the server something was counted, so that it can be given back."""

    place: str
    cell: int
    amount: int


class Over(NamedTuple):
    """Which of the wanted budgets is used up, by how much, and when the first of it leaves the window."""

    place: int
    used: int
    retry_s: float


class Apart(NamedTuple):
    """Not every relay has said yet what it had, since the server began its `life` `age_s` ago: longer windows
    are not shared.
    """

    life: str
    age_s: float


class Unknown(NamedTuple):
    """The server does not know this relay any more, which has begun anew: nothing was taken."""


class Away(Exception):
    """The server cannot be asked now."""


class Budgets:
    """The server's budgets as `relay`, one of `relays`, sees them.

    `take` and `back` are for the callbacks, `tend` for another thread; `last` outlives this process.
    """

    def __init__(self, place: ServerPlace, relay: str, relays: int, here_s: float = HERE_S,
                 clock: Callable[[], float] = time.monotonic, last: LastLife | None = None) -> None:
        self._place, self._relay, self._relays = place, relay, relays
        self._here_s, self._clock = here_s, clock
        self._line: Line | None = None
        self._lock = threading.Lock()
        self._retry_at_s, self._pause_s = float("-inf"), FIRST_RETRY_S
        self.trouble, self._said = AWAY, ""
        self._session = ""
        self._heard_s, self._heard_ms = clock(), 0
        self._here_from_s = clock()  # an earlier process of this relay may have been here until now
        self._last = last or Forgotten()
        self.life, self.missing, self.joined = self._last.found, 0, False

    @property
    def there(self) -> bool:
        """Whether the server can be asked."""
        return self._line is not None

    @property
    def alone_from_s(self) -> float:
        """From when on the server knows that this relay is not there, if it is not heard any more."""
        return self._here_from_s + self._here_s + MARGIN_S

    def here(self) -> int:
        """Until when, by the server's clock, this relay is here: for `take`, when nothing is left to say."""
        if not self._heard_ms:
            return 0
        self._here_from_s = self._heard_s
        return self._heard_ms + round(self._here_s * 1000)

    def take(self, wanted: Sequence[Wanted], here: int = 0, *, anyhow: bool = False
             ) -> list[Taken] | Over | Apart | Unknown:
        """Takes of all budgets or of none; `anyhow`: also of what is not shared. Raises Away."""
        life = self.life
        words: list[Any] = [life, self._relay, self._session, here, self._relays, int(anyhow)]
        for counted, most, amount, said in wanted:
            words += [round(counted.window_s * 1000), most, amount, -1 if said is None else len(said)]
            for age_s, count in said or ():
                words += [round(age_s * 1000), count]
        places = [w.counted.place for w in wanted]
        with self._lock:
            now_ms, missing, what, *rest = self._ask(TAKE, places, words)
            if what == "unknown":
                self._greet()
                return Unknown()
            self._heard_s, self._heard_ms, self.missing = self._clock(), now_ms, missing
            self.joined |= here > 0
        if what == "apart":
            return Apart(life, rest[0] / 1000)
        if what == "over":
            place, used, retry_ms = rest
            return Over(place, used, retry_ms / 1000)
        return [Taken(place, cell, w.amount) for place, cell, w in zip(places, rest, wanted, strict=True)]

    def back(self, taken: Sequence[Taken]) -> bool:
        """Gives back what was taken; False: not everything is where it was. Raises Away."""
        with self._lock:
            return bool(self._ask(BACK, [t.place for t in taken],
                                  [self.life, self._relay, self._session,
                                   *(word for t in taken for word in (t.cell, t.amount))]))

    def forgive(self, places: Sequence[str]) -> bool:
        """Forgets these budgets; whether there were any. Raises Away."""
        with self._lock:
            return bool(self._ask(FORGIVE, places, []))

    def tend(self, now_s: float) -> None:
        """Tries the server again when it is time."""
        if self._line is not None or now_s < self._retry_at_s:
            return
        try:
            found = connect(self._place)
        except (RedisError, OSError, ExchangeError) as error:
            self._fail(now_s, error)
            return
        with self._lock:
            self._line = found
            try:
                self._greet()
            except Away:
                return
            if self._line is None:  # it answered, and slowly
                return
        self._pause_s = FIRST_RETRY_S
        if self._said:
            logger.info(line("budgets_shared_again"))
        self._said = ""

    def close(self) -> None:
        """Ends the connection."""
        found, self._line = self._line, None
        if found is not None:
            found.close()

    def _greet(self) -> None:
        """Begins a session, in whatever life the server has. Raises Away, also when nobody may know which."""
        words = [self._relay, secrets.token_hex(8), secrets.token_hex(8), self.life]
        life = str(self._ask(GREET, [], words))
        if not life:
            self._fail(time.monotonic(), BLIND, BLIND)
            raise Away
        if life != self.life:
            self._last.keep(life)
        self.life, self._session = life, words[1]
        self._heard_ms, self.joined = 0, False  # another server has another clock

    def _ask(self, script: str, places: Sequence[str], words: Sequence[Any]) -> Any:
        found = self._line
        if found is None:
            raise Away
        began_s = time.monotonic()
        keys = [LIFE, ROLL, *places]
        try:
            [reply] = found.exchange(("EVAL", script, str(len(keys)), *keys, *map(str, words)))
        except (RedisError, OSError) as error:
            self._fail(time.monotonic(), error)
            raise Away from error
        if time.monotonic() - began_s > SLOW_S:  # its answer counts, but it is not asked again at once
            self._fail(time.monotonic(), TimeoutError("it is slow"))
        return reply

    def _fail(self, now_s: float, reason: object, trouble: str = AWAY) -> None:
        """Ends the connection; the server is tried again later."""
        self.close()
        self._retry_at_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LAST_RETRY_S)
        self.trouble = trouble
        if self._said != trouble:
            logger.warning(line("budgets_not_shared", reason=reason,
                                effect="each client goes on as it did here"))
        self._said = trouble
