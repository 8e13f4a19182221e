"""The exchange as it is in life: absent at start, vanishing later, damaged, replaced by a new file.

No fault of it leaves this file. Each change of its condition is said once, and it is tried again.
"""

from collections.abc import Callable
from typing import TypeVar

from egressguard.core.documents import Bulletin, Report
from egressguard.core.errors import ExchangeError, ExchangeLateError
from egressguard.exchange import Exchange
from egressguard_milter.journal import line, logger

T = TypeVar("T")

RETRY_S = 1.0


class Link:
    """An exchange that may not be there. For one thread."""

    def __init__(self, open_exchange: Callable[[], Exchange]) -> None:
        self._open_exchange = open_exchange
        self._exchange: Exchange | None = None
        self._retry_at_s = float("-inf")
        self._available: bool | None = None
        self._late = False
        self._left_out: dict[tuple[str, str], str] = {}

    def fetch(self, now_s: float) -> list[Bulletin] | None:
        """All bulletins if there may be a new one, otherwise None."""
        def bulletins(exchange: Exchange) -> list[Bulletin] | None:
            if not exchange.changed():
                return None
            found = exchange.bulletins()
            self._say_left_out(exchange.left_out)
            return found
        return self._try(bulletins, now_s)

    def leave(self, report: Report, now_s: float) -> bool:
        """Leaves `report` if the exchange can be reached; False: the answer is late, it may not be there."""
        self._late = False
        self._try(lambda exchange: exchange.report(report), now_s)
        return not self._late

    def close(self) -> None:
        """Lets go of the exchange; it is opened again when it is needed."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _try(self, use: Callable[[Exchange], T], now_s: float) -> T | None:
        if self._exchange is None and now_s < self._retry_at_s:
            return None
        try:
            if self._exchange is None:
                self._exchange = self._open_exchange()
            result = use(self._exchange)
        except ExchangeLateError:
            self._late = True
            return None  # the next poll asks again; a connection that stays silent is given up
        except ExchangeError as error:
            # One that stood may have lost packets only, so it is tried anew at once.
            self._retry_at_s = now_s + (RETRY_S if self._exchange is None else 0.0)
            self._say_available(False, str(error))
            self.close()
            return None
        self._say_available(True)
        return result

    def _say_available(self, available: bool, reason: str = "") -> None:
        if available is self._available:
            return
        self._available = available
        if available:
            logger.info(line("exchange_available"))
        else:
            logger.warning(line("exchange_unavailable", reason=reason,
                                effect="base limits once the last verdicts have lapsed"))

    def _say_left_out(self, left_out: dict[tuple[str, str], str]) -> None:
        if left_out != self._left_out:
            logger.warning(line("exchange_damaged", documents=len(left_out), effect="left out",
                                detail="; ".join(f"{name} {why}" for (_, name), why in left_out.items())))
        self._left_out = left_out
