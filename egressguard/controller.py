"""The router's whole work: one level-triggered round, and what has to stand before the first one.

A round reads what is, decides what should be, and applies the difference; it remembers nothing about what
it has applied. Failing to read history or to reach the exchange never stops a round: enforcement stands in
the kernel, and the next round tries again.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from egressguard.core import attempts, detection, leases, plan, policy
from egressguard.core.attempts import Baseline, Sample, Totals
from egressguard.core.documents import Bulletin, Origin, Report
from egressguard.core.errors import EgressguardError, KernelError
from egressguard.core.hosts import Host
from egressguard.core.leases import Leases
from egressguard.core.ruleset import CONFIGURED, FAMILY, TABLE, VERSION_CHAIN, Sets
from egressguard.core.settings import Settings
from egressguard.core.verdict import State, Transition, Verdict, states_by_key, transitions
from egressguard.database import Database, changed
from egressguard.exchange import Exchange
from egressguard.heartbeat import Pulse
from egressguard.kernel import Kernel, Ruleset, incarnation

log = logging.getLogger(__name__)

FULL_COMPARE_S = 5.0  # also without a new generation: an event can be lost, a comparison cannot
FORGET_EVERY_S = 60.0
UNSAVED_STEPS = 10_000  # history kept in memory while the database refuses
NOTHING: Sets = {name: frozenset() for name in CONFIGURED}


class Controller:
    """Holds what one round leaves for the next: the last counters, the verdicts, the documents received."""

    def __init__(self, settings: Settings, rules: Path, kernel: Kernel, database: Database,
                 connect: Callable[[], Exchange], boot: str) -> None:
        self._settings, self._rules, self._boot = settings, rules, boot
        self._kernel, self._database, self._connect = kernel, database, connect
        self._exchange: Exchange | None = None
        self._origin = Origin(settings.router, uuid.uuid4().hex, 0)
        self._published: tuple[dict[Host, State], float] | None = None
        self._reports: Leases[Report] = {}
        self._incarnation = ""
        self._fingerprint = ""
        self._generation = -1
        self._compared_s = self._forgot_s = float("-inf")
        self._totals: Totals | None = None
        self._baseline = Baseline()
        self._verdicts: dict[Host, Verdict] = {}
        self._unsaved: list[Transition] = []
        self._faults: dict[str, str] = {}

    def start(self, now_s: float) -> None:
        """Loads rules and sets in one transaction, and what history knows.

        Raises KernelError, having changed nothing, when the kernel refuses or holds another version's table.
        """
        self._load(now_s, "start")
        self._baseline = self._database.baseline(self._incarnation)
        self._verdicts = self._database.verdicts(now_s)

    def reconfigure(self, settings: Settings, rules: Path, now_s: float) -> None:
        """Goes on with other settings; what differs is applied as one transaction."""
        self._settings, self._rules = settings, rules
        self._load(now_s, "reload")

    def round(self, now_s: float) -> Pulse:
        """One round; never raises EgressguardError: what failed is in the pulse and is tried again."""
        began, faults = perf_counter(), dict[str, str]()
        with self._noting(faults, "rules"):
            self._enforce(now_s)
        sample = None
        with self._noting(faults, "kernel"):
            sample = self._sample(now_s)
        steps = self._judge(sample, now_s, faults)
        for step in steps:
            log.warning("verdict host=%s before=%s after=%s score=%.1f attempts=%d why=%r",
                        step.host, step.before, step.after, step.score, step.attempts, step.why)
        with self._noting(faults, "exchange"):
            self._signal(now_s)
        self._log_changed_faults(faults)
        received = {name: lease.received_s for name, lease in self._reports.items()}
        return Pulse(os.getpid(), now_s, perf_counter() - began, faults, received)

    def close(self, now_s: float) -> None:
        """Says good-bye in history. The table stays: a stopped daemon enforces as a running one does."""
        self._database.event(now_s, "stop", "the daemon stopped; the rules stay loaded")
        self._drop_exchange()

    def _enforce(self, now_s: float) -> None:
        """Compares the kernel with what should be there, if it changed, and puts it right."""
        generation = self._kernel.generation()
        if generation == self._generation and now_s - self._compared_s < FULL_COMPARE_S:
            return
        ruleset = self._kernel.ruleset()
        if ruleset is None or ruleset.dormant or ruleset.fingerprint != self._fingerprint:
            self._load(now_s, "repair: the table was " + (
                "gone" if ruleset is None else "dormant" if ruleset.dormant else "edited"))
        else:
            changes = plan.diff(self._kernel.sets(), policy.desired(self._settings))
            if changes:
                log.warning("repair: set elements differed\n%s", plan.transaction(changes))
                self._kernel.apply(changes)
        # The number from before the comparison: our own change costs one more comparison, and a change
        # by anybody else that came in between is not overlooked.
        self._generation, self._compared_s = generation, now_s

    def _load(self, now_s: float, why: str) -> None:
        before = self._kernel.ruleset()
        if before is not None and VERSION_CHAIN not in before.chains:
            raise KernelError(f"table {FAMILY} {TABLE} in the kernel belongs to another version of "
                              f"egressguard (it lacks chain {VERSION_CHAIN}); nothing was changed")
        have = NOTHING if before is None else self._kernel.sets()
        self._kernel.load(self._rules, plan.diff(have, policy.desired(self._settings)))
        after = self._kernel.ruleset()
        if after is None:
            raise KernelError(f"table {FAMILY} {TABLE} is gone right after it was loaded")
        self._adopt(after)
        log.info("loaded rules=%s why=%r", self._rules, why)
        self._database.set_meta("fingerprint", f"{self._incarnation} {self._fingerprint}")
        self._database.event(now_s, "load", why)

    def _adopt(self, ruleset: Ruleset) -> None:
        """Takes the table as loaded for the truth, and its counters for new if the table is new."""
        name = incarnation(self._boot, ruleset)
        self._fingerprint = ruleset.fingerprint
        if name != self._incarnation:
            self._baseline, self._totals = Baseline(), None
        self._incarnation = name

    def _sample(self, now_s: float) -> Sample | None:
        """All counters, or None when no named counter has moved: then no other has."""
        totals = self._kernel.totals()
        if totals == self._totals:
            return None
        sample = self._kernel.sample(now_s)
        self._totals = totals  # read before the elements: what came later makes the next round look again
        return sample

    def _judge(self, sample: Sample | None, now_s: float, faults: dict[str, str]) -> list[Transition]:
        found = attempts.between(self._baseline, sample) if sample else {}
        evidence = attempts.joined(found, self._settings.machine_of())
        before, judged = self._verdicts, detection.judge(
            self._verdicts, evidence, self._settings.detection, now_s)
        moved = [v for host, v in judged.items() if host in evidence
                 or v.state is not before.get(host, v).state]
        steps = transitions(before, moved)
        self._unsaved = (self._unsaved + steps)[-UNSAVED_STEPS:]
        with self._noting(faults, "database"):
            if sample or moved:
                self._database.record(self._incarnation, changed(self._baseline, sample) if sample else None,
                                      moved, self._unsaved)
                self._unsaved = []
            self._forget(now_s)
        self._verdicts = judged
        if sample:
            self._baseline = attempts.advance(self._baseline, sample)
        return steps

    def _forget(self, now_s: float) -> None:
        """Drops clean hosts whose counters the kernel has long let go, so that memory stays bounded."""
        if now_s - self._forgot_s < FORGET_EVERY_S:
            return
        self._forgot_s = now_s
        gone = [host for host, verdict in self._verdicts.items()
                if verdict.state is State.CLEAN and host not in self._baseline.attempts]
        for host in gone:
            del self._verdicts[host]
        self._database.forget(gone, now_s - attempts.MEMORY_S)

    def _signal(self, now_s: float) -> None:
        """Leaves the verdicts in the exchange when they changed, or before they grow old; reads reports."""
        if self._exchange is None:
            self._exchange = self._connect()
        states = states_by_key(self._verdicts.values(), self._settings.machine_of())
        try:
            if self._published is None or self._due(states, now_s):
                self._publish(self._exchange, states, now_s)
            if self._exchange.changed():
                self._reports = leases.receive(self._reports, self._exchange.reports(), now_s)
        except EgressguardError:
            self._drop_exchange()
            raise

    def _due(self, states: dict[Host, State], now_s: float) -> bool:
        published, at_s = self._published or ({}, float("-inf"))
        return states != published or now_s - at_s >= self._settings.signal_lifetime_s / 3

    def _publish(self, exchange: Exchange, states: dict[Host, State], now_s: float) -> None:
        self._origin = Origin(self._origin.name, self._origin.epoch, self._origin.sequence + 1)
        exchange.publish(Bulletin(self._origin, self._settings.signal_lifetime_s, states))
        self._published = states, now_s

    def _drop_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
        self._exchange = self._published = None

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
