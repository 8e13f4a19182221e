"""The router's whole work: one level-triggered round, and what has to stand before the first one.

A round reads what is, decides what should be, and applies the difference; it remembers nothing about what
it has applied. Failing to read history or to reach the exchange never stops a round: enforcement stands in
the kernel, and the next round tries again.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

from egressguard.alarm import News
from egressguard.config import DEFAULT_PATH, Site
from egressguard.configurations import Configurations
from egressguard.core import attempts, shared
from egressguard.core.alerts import Evidence
from egressguard.core.attempts import Attempts, Baseline, Sample, Totals
from egressguard.core.errors import DatabaseError, EgressguardError
from egressguard.core.exposure import Deviation, Exposure, Program
from egressguard.core.hosts import Host
from egressguard.core.inventory import Inventory, inventory_of
from egressguard.core.settings import Settings
from egressguard.core.verdict import Transition
from egressguard.counting import Counting
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.evidence import with_evidence
from egressguard.exchange import Exchange
from egressguard.exposures import Exposures, exposure_of
from egressguard.following import Following
from egressguard.heartbeat import Pulse
from egressguard.judgement import Judgement
from egressguard.kernel import Kernel
from egressguard.kernel.events import Culprit
from egressguard.metrics import Figures
from egressguard.refused import Refused
from egressguard.signalling import Signalling

log = logging.getLogger(__name__)

KEEP_EVERY_S = 60.0
SAVE_EVERY_S = 5.0  # at the latest; what relays or people are told is recorded at once
SUSPECTS = 100


class Controller:
    """Holds who holds what one round leaves for the next: counters, verdicts, documents, exposures."""

    def __init__(self, enforcement: Enforcement, kernel: Kernel, database: Database,
                 connect: Callable[[], Exchange], database_fault: str = "",
                 config: Path = DEFAULT_PATH) -> None:
        self._enforcement, self._kernel, self._database = enforcement, kernel, database
        self._following = Following(Configurations(database, config), enforcement, database)
        self._signalling = Signalling(database, connect)
        self._database_fault = database_fault
        self._kept_s = self._saved_s = float("-inf")
        self._listed: tuple[Settings, Inventory] | None = None
        self._counting, self._refused = Counting(kernel, database), Refused()
        self._news: list[tuple[Transition, Evidence] | Exposure] = []
        self._suspects: list[Culprit] = []
        self._rounds = 0
        self._exposures = Exposures(database)
        self._judgement = Judgement(database)
        self._judged = self._settings
        self._faults: dict[str, str] = {}

    @property
    def _settings(self) -> Settings:
        return self._enforcement.site.settings

    @property
    def _inventory(self) -> Inventory:
        """The configuration's, worked out once for each."""
        if self._listed is None or self._listed[0] is not self._settings:
            self._listed = self._settings, inventory_of(self._settings)
        return self._listed[1]

    @property
    def _machine_of(self) -> Mapping[Host, Host]:
        return self._inventory.machine_of

    def start(self, now_s: float, seen_s: float | None = None) -> None:
        """Loads rules and sets in one transaction, and what history knows. `seen_s` is the last round of an
        earlier daemon of this boot: what somebody has done to the table since then is told.

        Raises KernelError, having changed nothing, when the kernel refuses or holds another version's table.
        """
        with self._noting({}, "sinkhole"):  # before anybody is led to it; the first round says what failed
            self._counting.proofs.listen(self._settings.sinkhole)
        wrong = None
        if seen_s is not None:
            with self._noting({}, "rules"):  # what cannot be read is an error of the load
                wrong = self._enforcement.found(now_s, self._following.enforced(now_s))
        self._following.start(now_s)
        if wrong is not None and seen_s is not None:
            with self._noting({}, "database"):
                self._note(wrong, (), (seen_s, now_s, now_s))
        self._exposures.start()
        self._counting.start(self._enforcement.router.incarnation)
        self._judgement.start(now_s)
        self._judged = self._following.former or self._settings
        self._signalling.start(self._settings.router, now_s)

    def reconfigure(self, site: Site, now_s: float) -> None:
        """Goes on with another configuration; what differs is applied as one transaction.

        Raises EgressguardError, and stays with the one in force, when that is refused.
        """
        self._following.reload(site, now_s)

    def round(self, now_s: float, culprits: Callable[[], Sequence[Culprit]] = tuple) -> Pulse:
        """One round; never raises EgressguardError: what failed is in the pulse and is tried again.

        `culprits` tells who has changed the ruleset since the last round; it is asked when something is
        wrong, since the change may have come after this round began.
        """
        began = perf_counter()
        faults = {"database": self._database_fault} if self._database_fault else {}
        with self._noting(faults, "configuration"):
            self._following.follow(now_s)
        with self._noting(faults, "rules"):
            self._enforce(now_s, culprits)
        if self._enforcement.last_good is not None:
            self._enforcement.last_good.heal()
            if self._enforcement.last_good.fault:
                faults["last_good"] = self._enforcement.last_good.fault
        faults |= self._enforcement.faults
        if self._enforcement.router.cutting.uncut:
            faults["conntrack"] = self._enforcement.router.cutting.uncut
        sample = None
        with self._noting(faults, "kernel"):
            sample = self._counting.read(now_s, bool(self._judgement.owed))
        self._judge(sample, now_s, faults)
        self._news += with_evidence(self._judgement.news(), self._inventory, self._settings,
                                    self._counting.destinations, self._kernel)
        with self._noting(faults, "exchange"):
            self._signalling.step(self._judgement, self._inventory, self._settings, now_s)
        if fault := self._judgement.hearsay.fault():
            faults["hearsay"] = fault
        with self._noting(faults, "database"):
            self._signalling.keep_marks(now_s)
        self._log_changed_faults(faults)
        received = {name: lease.received_s for name, lease in self._signalling.reports.leases.items()}
        return Pulse(os.getpid(), now_s, perf_counter() - began, faults, received)

    def news(self) -> News:
        """What has happened since the last call that somebody may want to know."""
        found, self._news = self._news, []
        return found

    def totals(self) -> Totals | None:
        """The named counters as last read."""
        return self._counting.totals

    def figures(self, pulse: Pulse, alerts_pending: int = 0) -> Figures:
        """What the metrics tell until the next round; nothing is read for it."""
        self._rounds += 1
        orders = Counter[str](order.kind for order in self._enforcement.router.standing)
        states = self._judgement.counts()
        enforcing = self._settings.mode == "enforce" and "rules" not in pulse.faults and not orders["open"]
        return Figures(self._settings, enforcing, self.totals(), states, orders, self._rounds,
                       *self._exposures.total, alerts_pending, on_trial=self._enforcement.on_trial,
                       pulse=pulse)

    def close(self, now_s: float) -> None:
        """Says good-bye in history. The table stays: a stopped daemon enforces as a running one does."""
        with self._noting({}, "database"):
            lots = self._counting.everything(self._inventory)
            self._signalling.tell(lots)
            self._judgement.weigh_attempts(lots, self._settings.detection, now_s)
            self._judgement.hurry()
            self._save()
            self._database.event(now_s, "stop", "the daemon stopped; the rules stay loaded")
        self._signalling.close()
        self._counting.close()

    def _enforce(self, now_s: float, culprits: Callable[[], Sequence[Culprit]]) -> None:
        """Puts the kernel right if it is wrong, and records the exposure and who did it."""
        began = perf_counter()
        try:
            wrong = self._enforcement.ensure(now_s)
        except EgressguardError:
            self._suspects = [*self._suspects, *culprits()][-SUSPECTS:]  # for the round that repairs it
            raise
        if self._enforcement.router.order_ended:
            with self._noting({}, "database"):
                self._database.keep_orders(now_s)
        suspects, self._suspects = self._suspects, []
        if self._counting.renew(self._enforcement.router.incarnation):
            self._saved_s = float("-inf")  # what was counted before is nowhere else
        if wrong is None:
            if self._enforcement.looks_later:
                self._suspects = [*suspects, *culprits()][-SUSPECTS:]
            return
        by = tuple(Program(c.program, c.pid) for c in self._kernel.others([*suspects, *culprits()]))
        end_s = now_s + perf_counter() - began
        if wrong.loose:
            self._note(wrong, by, (max(self._enforcement.router.right_until_s, 0.0), now_s, end_s))
        else:
            self._database.event(now_s, "repair", f"{wrong.text}, by {', '.join(map(str, by)) or 'unknown'}; "
                                 "nothing passed that should not")

    def _note(self, wrong: Deviation, by: tuple[Program, ...], times_s: tuple[float, float, float]) -> None:
        """An exposure, in the words of `core.exposure`; it may be recorded later."""
        exposure = exposure_of(wrong, by, times_s, self._enforcement.router.cutting.last)
        self._news.append(exposure)
        self._exposures.note(exposure, times_s[-1])

    def _judge(self, sample: Sample | None, now_s: float, faults: dict[str, str]) -> None:
        own = self._tried_now(sample, now_s, faults)
        lots = self._counting.lots(shared.added(own, self._signalling.told()), self._inventory, now_s)
        self._signalling.tell([*lots[:-1], (now_s, own)])
        if self._settings is not self._judged:
            before, self._judged = self._judged, self._settings
            with self._noting(faults, "database"):
                self._judgement.settle(before, self._settings, now_s)
        with self._noting(faults, "database"):
            self._judgement.forgive(self._inventory, now_s)
        self._judgement.weigh_attempts(lots, self._settings.detection, now_s)
        with self._noting(faults, "database"):
            self._exposures.save(now_s)
            self._record(now_s)

    def _tried_now(self, sample: Sample | None, now_s: float, faults: dict[str, str]
                   ) -> dict[Host, Attempts]:
        """What is to be weighed in this round, of the keys of each machine together."""
        counting, inventory = self._counting, self._inventory
        found: list[Mapping[Host, Attempts]] = [
            counting.tried(sample, inventory, self._judgement.queued, now_s)]
        self._refused.note(counting.tried_any, inventory, now_s)
        if fault := self._refused.fault():
            faults["senders"] = fault
        with self._noting(faults, "kernel"):
            found += counting.beside.attempts(self._enforcement, now_s)
        with self._noting(faults, "sinkhole"):
            counting.proofs.listen(self._settings.sinkhole)
            found.append(counting.proofs.taken(*found))
        return attempts.joined(found, inventory.machine_of, inventory.unjudged)

    def _record(self, now_s: float) -> None:
        """Writes down what is due. Raises DatabaseError."""
        keep = now_s - self._kept_s >= KEEP_EVERY_S
        if keep or self._judgement.reports.urgent:
            self._judgement.hurry()
            self._saved_s = float("-inf")
        if self._judgement.urgent or now_s - self._saved_s >= SAVE_EVERY_S:
            self._save()
            self._saved_s = now_s
        self._judgement.explain(now_s)
        if keep:
            self._kept_s = now_s
            self._keep(now_s)

    def _save(self) -> None:
        """Records what is not recorded yet, of as many rounds as it may be. Counters and what came of them
        belong together, so a kill costs no attempt: the kernel still has what was counted since.
        """
        moved, beside, judgement = self._counting.unsaved(), self._counting.beside.unsaved(), self._judgement
        if moved is None and not (beside or judgement.waits):
            return
        self._database.record(self._counting.incarnation, moved or Baseline(), judgement.unsaved.values(),
                              judgement.steps, beside, judgement.along)
        self._counting.saved()
        judgement.saved()

    def _keep(self, now_s: float) -> None:
        """Now and then: drops clean hosts whose counters the kernel has let go, so that memory stays
        bounded, and writes down what is left of the orders.
        """
        self._heal_database()
        self._counting.forget(now_s)
        machine_of = self._machine_of.get
        machines = {machine_of(key, key) for key in self._counting.hosts()}
        self._judgement.explain(now_s, everything=True)
        gone = self._judgement.keep(machines, self._inventory, now_s)
        self._database.forget(gone, now_s - attempts.REMEMBER_DESTINATION_S)
        self._database.keep_orders(now_s)

    def _heal_database(self) -> None:
        """History that was kept in memory goes into its file once that can be used."""
        if self._database_fault:
            with suppress(DatabaseError):
                self._database.keep_in(Path(self._settings.database))
                self._judgement.renumbered()
                self._following.write_down_again()
                self._database_fault = ""

    @contextmanager
    def _noting(self, faults: dict[str, str], part: str) -> Iterator[None]:
        try:
            yield
        except EgressguardError as error:
            faults[part] = str(error)

    def _log_changed_faults(self, faults: dict[str, str]) -> None:
        for part, text in faults.items():
            if self._faults.get(part) != text:
                log.error("fault part=%s error=%r", part, text)
        for part in self._faults.keys() - faults.keys():
            log.warning("healed part=%s", part)
        self._faults = faults
