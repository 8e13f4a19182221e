"""What a relay may let through of a shared budget when the server cannot say what the others did.

The law: relays that do not hear of each other let no more than one limit through together, in any window.
Until the server was lost it saw to that, so each relay may go on with what it had used itself in the window
that ended then: together these are one limit at most. More, its part of the limit, is safe only when
whatever was taken at the server's has left the window. The server may still be there for the others; from
GOES_ON_S on it keeps the part for this relay, so that is safe one window later.
"""

from collections import OrderedDict
from collections.abc import Hashable

GOES_ON_S = 600.0
MOST_KEYS = 100_000
SURELY = 31 / 32  # of a window: here and there a stamp may count a 64th longer


class Alone:
    """The rule for one relay of `relays`; an era is a time in which nobody took from the server."""

    def __init__(self, relays: int) -> None:
        self._relays = relays
        self._era: Hashable = None
        self._began_s = float("inf")
        self._had: OrderedDict[Hashable, int] = OrderedDict()

    def enter(self, era: Hashable, began_s: float) -> None:
        """It is `era`, which `began_s` at the latest; in another one, what was used counts anew."""
        if era != self._era:
            self._era, self._began_s = era, began_s
            self._had.clear()

    def most(self, budget: Hashable, limit: int, window_s: float, used: int, now_s: float) -> int:
        """How much of `budget` may count in this relay's window; `used` does, reservations left out."""
        part = limit // self._relays
        if now_s >= self._began_s + min(window_s, GOES_ON_S) + window_s:
            return part
        had = self._had.setdefault(budget, used)
        if len(self._had) > MOST_KEYS:  # what is asked for again is less then, never more
            self._had.popitem(last=False)
        return min(had, part)
