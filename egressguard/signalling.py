"""What this router leaves in the exchange, and what it finds there.

Documents are whole, so one that could not be left or read is replaced by the next.
"""

import json
import logging
from collections.abc import Callable, Mapping

from egressguard.boot import boot_id, next_epoch
from egressguard.core import attempts, shared
from egressguard.core.attempts import Attempts
from egressguard.core.documents import BULLETIN, REPORT, Bulletin, Origin, Report, Tried, worst
from egressguard.core.errors import ExchangeError, ExchangeLateError
from egressguard.core.hosts import Host
from egressguard.core.inventory import Inventory
from egressguard.core.leases import Inbox, Mark, marks_from_json, marks_to_json
from egressguard.core.settings import Settings
from egressguard.core.verdict import State
from egressguard.core.waiting import Lots
from egressguard.database import Database
from egressguard.exchange import Exchange
from egressguard.judgement import Judgement

log = logging.getLogger(__name__)

KEEP_MARKS_EVERY_S = 5.0
TRIED_EVERY_S = 1.0  # between two bulletins that only tell other routers of further attempts
RETRY_S = 1.0  # between two tries to reach the exchange
SHOWN = 5


class Signalling:
    """Holds the connection, what was published last, and the documents received."""

    def __init__(self, database: Database, connect: Callable[[], Exchange]) -> None:
        self.reports: Inbox[Report] = Inbox()
        self._database, self._connect = database, connect
        self._exchange: Exchange | None = None
        self._origin = Origin("", 0, 0)
        self._published: tuple[dict[Host, State], float] | None = None
        self._bulletins: Inbox[Bulletin] = Inbox()
        self._tried: dict[Host, Tried] = {}
        self._told_of = self._tried
        self._heard, self._told = shared.Heard(), dict[Host, Attempts]()
        self._kept_marks: tuple[dict[str, Mapping[str, Mark]], float] = {}, float("-inf")
        self._retry_at_s = float("-inf")
        self._away = ""

    def start(self, router: str, now_s: float) -> None:
        """Begins a new epoch, and takes up which documents were seen. Raises DatabaseError."""
        self._origin = Origin(router, next_epoch(int(self._database.meta("epoch") or 0)), 0)
        self._database.set_meta("epoch", str(self._origin.epoch))
        self.reports, self._bulletins = (Inbox(marks=marks_from_json(json.loads(
            self._database.meta(f"{kind}_marks") or "null"), boot_id())) for kind in (REPORT, BULLETIN))
        self._kept_marks = self._marks, now_s

    def tell(self, own: Lots) -> None:
        """Adds what this router has weighed to what it tells the others."""
        for _, evidence in own:
            if evidence:
                self._tried = shared.tried(self._tried, evidence)

    def told(self) -> dict[Host, Attempts]:
        """What other routers have told since the last call."""
        found, self._told = self._told, {}
        return found

    def step(self, judgement: Judgement, inventory: Inventory, settings: Settings, now_s: float) -> None:
        """Leaves the verdicts in the exchange when they changed, or before they grow old; reads reports.
        Raises ExchangeError.

        An exchange that failed is left alone for a moment: each try may cost a round its deadline.
        """
        if self._exchange is None and now_s < self._retry_at_s:
            raise ExchangeError(self._away)
        try:
            if self._exchange is None:
                self._exchange = self._connect()
            states = judgement.states(inventory.machine_of, inventory.senders)
            if self._published is None or self._due(states, settings.signal_lifetime_s, now_s):
                self._publish(self._exchange, states, judgement.causes(inventory.machine_of),
                              settings.signal_lifetime_s, now_s)
            if self._exchange.changed():
                self._receive(self._exchange, now_s)
                judgement.weigh_reports(self.reports.leases, inventory, settings.detection, now_s)
                self._hear(judgement, inventory, settings.router)
        except ExchangeLateError:
            raise
        except ExchangeError as error:
            # One that stood may have lost packets only, so it is tried anew at once.
            self._retry_at_s = now_s + (RETRY_S if self._exchange is None else 0.0)
            self._away = str(error)
            self.close()
            raise
        if self._exchange.left_out:
            left_out = sorted(self._exchange.left_out.items())[:SHOWN]
            raise ExchangeError("; ".join(f"the {kind} of {name!r} {why}, and is left out"
                                          for (kind, name), why in left_out))

    def _receive(self, exchange: Exchange, now_s: float) -> None:
        replayed = self._replayed()
        self.reports = self.reports.receive(exchange.reports(), now_s)
        self._bulletins = self._bulletins.receive(exchange.bulletins(), now_s)
        if self._replayed() > replayed:
            log.warning("replayed documents=%d effect=%r", self._replayed() - replayed, "none")

    def _replayed(self) -> int:
        return self.reports.replayed + self._bulletins.replayed

    def _hear(self, judgement: Judgement, inventory: Inventory, router: str) -> None:
        self._heard, told = self._heard.hear(
            (lease.document for lease in self._bulletins.leases.values()), router)
        told = judgement.believed(told, inventory)
        self._told = shared.added(self._told, attempts.joined([told], inventory.machine_of,
                                                              inventory.unjudged))

    def keep_marks(self, now_s: float) -> None:
        """Writes down now and then which documents were seen, so that after a restart none is new again.
        Raises DatabaseError.
        """
        kept, at_s = self._kept_marks
        if self._marks == kept or now_s - at_s < KEEP_MARKS_EVERY_S:
            return
        self._kept_marks = self._marks, now_s
        for kind, marks in self._marks.items():
            self._database.set_meta(f"{kind}_marks", json.dumps(marks_to_json(marks, boot_id())))

    @property
    def _marks(self) -> dict[str, Mapping[str, Mark]]:
        return {REPORT: self.reports.marks, BULLETIN: self._bulletins.marks}

    def _due(self, states: dict[Host, State], lifetime_s: float, now_s: float) -> bool:
        """At once for the relays, within a second for the other routers if there are any, and before it grows
        old: a router that has just come begins with what it finds.
        """
        published, at_s = self._published or ({}, float("-inf"))
        more = (self._tried is not self._told_of and now_s - at_s >= TRIED_EVERY_S
                and bool(self._heard.routers))
        return states != published or more or now_s - at_s >= lifetime_s / 3

    def _publish(self, exchange: Exchange, states: dict[Host, State], causes: dict[Host, str],
                 lifetime_s: float, now_s: float) -> None:
        self._origin = Origin(self._origin.name, self._origin.epoch, self._origin.sequence + 1)
        told = worst(states)
        causes = {host: cause for host, cause in causes.items() if host in told}
        exchange.publish(Bulletin(self._origin, lifetime_s, told, causes, self._tried))
        self._published, self._told_of = (states, now_s), self._tried

    def close(self) -> None:
        """Ends the connection, if there is one; another step begins a new one."""
        if self._exchange is not None:
            self._exchange.close()
        self._exchange = self._published = None
