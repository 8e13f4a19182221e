"""The verdicts as the daemon holds them between two rounds, and which must be recorded and explained.

Evidence comes from counters and from relays' reports, forgiveness from an operator; `core.detection` weighs
it. Recording may fail for a while: what could not be written waits here, in bounded memory.
"""

import logging
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from egressguard.boot import boot_id
from egressguard.core import detection
from egressguard.core.detection import REMEMBER_MAIL_S
from egressguard.core.documents import Report
from egressguard.core.explanation import to_json
from egressguard.core.hearsay import Hearsay
from egressguard.core.hosts import Host
from egressguard.core.inventory import Inventory
from egressguard.core.leases import Leases
from egressguard.core.queue import SETTLING_S, Queue
from egressguard.core.settings import Detection, Settings
from egressguard.core.verdict import State, Transition, Verdict, states_by_key, transitions
from egressguard.core.waiting import Lots
from egressguard.database import Database
from egressguard.reports import Reports

log = logging.getLogger(__name__)

SETTLING = "settling"
FORGIVEN = "forgiven"  # the line of history up to which releases are in the recorded verdicts
MOST_EXPLAINED = 1000  # hosts whose evidence is written down at once
MOST_STEPS = 10_000  # history kept in memory while the database refuses
V = TypeVar("V")


class Judgement:
    """Every host's verdict, and what of it is not recorded yet: `unsaved` verdicts and `steps` of history.

    `queued` are the hosts that may have a mail server's queue, `owed` those of them whose retries are waited
    for.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._verdicts: dict[Host, Verdict] = {}
        self._bad: dict[Host, Verdict] = {}
        self.unsaved: dict[Host, Verdict] = {}
        self.steps: list[Transition] = []
        self._news: list[Transition] = []
        self.queued, self.owed = set[Host](), set[Host]()
        self._states: dict[Host, State] | None = None
        self._later: dict[Host, None] = {}
        self._whole = False
        self._changed: dict[Host, None] = {}
        self._moved: dict[Host, None] = {}
        self.reports, self.hearsay = Reports(database), Hearsay()
        self._settling_until_s = float("-inf")
        self._history = self._forgiven = 0
        self._released: frozenset[Host] = frozenset()

    def __len__(self) -> int:
        return len(self._verdicts)

    def start(self, now_s: float) -> None:
        """Takes up what history knows. Raises DatabaseError."""
        last, _ = self._database.released(0)
        self._forgiven = int(self._database.meta(FORGIVEN) or -1)
        self._history = self._forgiven if self._forgiven >= 0 else last
        self._verdicts = self._database.verdicts(now_s)
        self.hearsay.keep(self._untried(), ())
        self.reports.start()
        boot, _, until = (self._database.meta(SETTLING) or "").partition(" ")
        self._settling_until_s = float(until) if boot == boot_id() else float("-inf")
        self._verdicts |= {host: v._replace(until_s=v.memory.past.queue.doubt_until_s)
                           for host, v in self._verdicts.items()
                           if v.until_s == math.inf and v.undecided and v.memory.past.queue is not None}
        self._bad = {host: v for host, v in self._verdicts.items() if v.told is not State.CLEAN}

    def settle(self, before: Settings, after: Settings, now_s: float) -> None:
        """Whoever is shut out by `after`, and was not by `before`, comes with a queue, which is no spambot's
        burst. Raises DatabaseError when that will be forgotten by the next start.

        The very first start is not such a moment: nothing says what was permitted before it, and a bot should
        not be given two hours by an installation. Nor is it when the rules have counted while nobody looked:
        they have refused it all along.
        """
        self._states = None  # a machine may have other keys now
        if after.mode == "enforce" and (before.mode != "enforce" or before.sender != after.sender):
            self._settling_until_s = now_s + SETTLING_S
            self._database.set_meta(SETTLING, f"{boot_id()} {self._settling_until_s}")

    def weigh_attempts(self, lots: Lots, settings: Detection, now_s: float) -> None:
        """What the counters of this round say, and those before it whose attempts had waited."""
        settling = now_s < self._settling_until_s
        for at_s, evidence in lots:
            self._absorb(detection.judge(self._verdicts, evidence, settings, at_s, settling=settling,
                                         waning=self._bad if at_s == now_s else ()), evidence)
        self._release(self._released, now_s)
        self._released = frozenset()

    def believed(self, told: Mapping[Host, V], inventory: Inventory) -> dict[Host, V]:
        """What of `told`, by a relay or another router, is taken for evidence: on hosts of this site."""
        return self.hearsay.believed(told, self._verdicts, inventory)

    def weigh_reports(self, leases: Leases[Report], inventory: Inventory, settings: Detection,
                      now_s: float) -> None:
        """What relays report is evidence, except against senders, who are meant to mail, and history."""
        for lease in leases.values():
            found = self.reports.more(lease.document, inventory.machine_of,
                                      lambda clients: self.believed(clients, inventory))
            judged = {host: volume for host, volume in found.items()
                      if volume.mail and host not in inventory.senders}
            changed = detection.judge_reports(self._verdicts, judged, settings, now_s)
            self._later |= dict.fromkeys(changed)
            self._absorb(changed)

    def forgive(self, inventory: Inventory, now_s: float) -> None:
        """Releases the hosts that an operator has released since the last round, or since a round was last
        recorded by a daemon that is gone. What they had tried until then may come to be weighed in this round
        only, so they are released after it once more. Raises DatabaseError.
        """
        self._history, hosts = self._database.released(self._history)
        self._released = frozenset(inventory.machine_of.get(host, host) for host in hosts)
        self._release(self._released, now_s)

    def renumbered(self) -> None:
        """History was copied into another file, where its lines have other numbers. Raises DatabaseError."""
        self._history, _ = self._database.released(0)
        self._forgiven = -1

    def _release(self, hosts: Iterable[Host], now_s: float) -> None:
        known = [self._verdicts[host] for host in hosts if host in self._verdicts]
        found = {verdict.host: detection.release(verdict, now_s) for verdict in known}
        if found:
            self._absorb(found, found)

    def _absorb(self, changed: dict[Host, Verdict], at_once: Iterable[Host] = ()) -> None:
        """Takes verdicts over; those on hosts `at_once`, and what people or relays are told anew, are
        recorded with this round.
        """
        steps = transitions(self._verdicts, changed.values())
        for step in steps:
            log.warning("verdict host=%s before=%s after=%s score=%.1f attempts=%d why=%r",
                        step.host, step.before, step.after, step.score, step.attempts, step.why)
        self._verdicts |= changed
        news = {step.host for step in steps}
        for host, verdict in changed.items():
            before = self._bad.get(host)
            if verdict.told is not State.CLEAN:
                self._bad[host] = verdict
            elif before is not None:
                del self._bad[host]
            if verdict.told is not (State.CLEAN if before is None else before.told):
                self._states = None
                news.add(host)
            self._mark(host, verdict.memory.past.queue)
        self.unsaved |= {host: changed[host] for host in (*at_once, *news)}
        self._changed |= dict.fromkeys(news)
        self._moved |= dict.fromkeys(changed)
        self.steps = (self.steps + steps)[-MOST_STEPS:]
        self._news = (self._news + steps)[-MOST_STEPS:]

    def _mark(self, host: Host, queue: Queue | None) -> None:
        if queue is not None:
            self.queued.add(host)
            (self.owed.add if queue.owed or queue.again else self.owed.discard)(host)
        elif host in self.queued:
            self.queued.discard(host)
            self.owed.discard(host)

    def news(self) -> list[Transition]:
        """The steps since the last call, for whoever is told of them."""
        found, self._news = self._news, []
        return found

    def counts(self) -> Counter[State]:
        """How many hosts are in each state."""
        found = Counter(verdict.state for verdict in self._bad.values())
        found[State.CLEAN] += len(self._verdicts) - len(self._bad)
        return found

    def hurry(self) -> None:
        """What was left for later is unsaved now: what moved verdicts without changing them, and volumes."""
        self.unsaved |= {host: self._verdicts[host] for host in self._later}
        self._later, self._whole = {}, True

    @property
    def urgent(self) -> bool:
        """Whether people or relays are told of something that is not recorded."""
        return bool(self.steps or self._changed)

    @property
    def waits(self) -> bool:
        """Whether anything is unsaved."""
        return bool(self.unsaved or self.steps or (self._whole and self.reports))

    def along(self, db: sqlite3.Connection) -> None:
        """Writes down how far reports were weighed for the hosts that are `unsaved`, in the transaction of
        `db`: their verdicts and that belong together.
        """
        self.reports.write(db, None if self._whole else self.unsaved)
        if self._forgiven != self._history:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (FORGIVEN, str(self._history)))

    def saved(self) -> None:
        """What was unsaved has been recorded."""
        self.reports.written(None if self._whole else self.unsaved)
        self.unsaved, self.steps, self._whole, self._forgiven = {}, [], False, self._history

    def explain(self, now_s: float, *, everything: bool = False) -> None:
        """Writes down what made verdicts: of new ones, or of all that moved. Raises DatabaseError."""
        hosts = list(self._moved if everything else self._changed)[-MOST_EXPLAINED:]
        if hosts:
            self._database.explain({host: to_json(self._verdicts[host]) for host in hosts
                                    if host in self._verdicts}, now_s)
        self._changed = {}
        if everything:
            self._moved = {}

    def keep(self, counted: set[Host], inventory: Inventory, now_s: float) -> list[Host]:
        """Forgets clean hosts that are neither `counted` nor known to a relay, and says which."""
        gone = [host for host, verdict in self._verdicts.items()
                if verdict.state is State.CLEAN and host not in counted
                and now_s - verdict.memory.past.told_s > REMEMBER_MAIL_S]
        for host in gone:
            del self._verdicts[host]
            self._later.pop(host, None)
        self.hearsay.keep(self._untried(), inventory.names.keys())
        return gone

    def _untried(self) -> Iterable[Host]:
        """The hosts that are known by what others tell, and have tried nothing here."""
        return (host for host, verdict in self._verdicts.items() if not verdict.attempts)

    def states(self, machine_of: Mapping[Host, Host], senders: frozenset[Host] = frozenset()
               ) -> dict[Host, State]:
        """The state that relays are told of a host, under every key of its machine; without clean ones and
        the keys of `senders`, which a relay would take for the senders themselves.
        """
        if self._states is None:
            self._states = {key: state for key, state in states_by_key(self._bad.values(), machine_of).items()
                            if key not in senders}
        return self._states

    def causes(self, machine_of: Mapping[Host, Host]) -> dict[Host, str]:
        """What such a host's attempts look like, likewise."""
        causes = {host: verdict.cause_told for host, verdict in self._bad.items()}
        return causes | {key: causes[host] for key, host in machine_of.items() if host in causes}
