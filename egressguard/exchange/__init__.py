"""Where routers and relays leave verdicts and reports for each other; `open_exchange` finds it by URL."""

from pathlib import Path
from typing import Protocol

from egressguard.core.documents import Bulletin, Report
from egressguard.core.errors import ExchangeError
from egressguard.core.exchange_url import sqlite_path


class Exchange(Protocol):
    """One place for both directions. Each origin has one document of a kind: the newest it left.

    Every method raises ExchangeError when the place cannot be reached or refuses. A document that cannot
    be decoded is left out and counted in `damaged`, so that one bad writer cannot silence the others.
    """

    damaged: int

    def publish(self, bulletin: Bulletin) -> None:
        """Leaves a router's bulletin in place of its last one."""

    def bulletins(self) -> list[Bulletin]:
        """Every router's newest bulletin."""

    def report(self, report: Report) -> None:
        """Leaves a relay's report in place of its last one."""

    def reports(self) -> list[Report]:
        """Every relay's newest report."""

    def changed(self) -> bool:
        """Whether anybody else may have left something since the last call; cheap enough to poll."""

    def close(self) -> None:
        """Lets go of the place; what was left stays."""


def open_exchange(url: str, *, read_only: bool = False) -> Exchange:
    """The exchange at `url` (`sqlite:/absolute/path`), made if it does not exist yet, unless `read_only`."""
    from egressguard.exchange.sqlite import SqliteExchange

    try:
        return SqliteExchange(Path(sqlite_path(url)), read_only=read_only)
    except ValueError as error:
        raise ExchangeError(f"exchange: {error}") from None
