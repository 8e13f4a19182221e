"""What `status` has observed, as plain values: the tables in the kernel, the daemon, the relays, history."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from egressguard.core.attempts import Sample, Transit
from egressguard.core.canary import Run
from egressguard.core.documents import Report
from egressguard.core.forgery import Macs
from egressguard.core.hosts import Host
from egressguard.core.leases import Leases as SignalLeases
from egressguard.core.plan import Changes
from egressguard.core.ruleset import Element, Leases, Sets
from egressguard.core.settings import Settings
from egressguard.core.tables import ROUTER
from egressguard.core.tables import Table as Kind
from egressguard.core.verdict import Verdict

SENDERS = ("allow4", "allow6", "allow_mac4", "allow_mac6")


@dataclass(frozen=True, slots=True)
class Table:
    """What the kernel holds; `intact` compares the rules with the ones that the daemon loaded, None when
    nobody knows these. `counted` are SYNs to ports that are only counted. `kind` tells which of our tables it
    is; the last line's stands on `devices`.
    """

    chains: frozenset[str]
    hooks: dict[str, str]
    dormant: bool
    intact: bool | None
    changes: Changes
    sets: Sets
    sample: Sample
    leases: Leases = field(default_factory=dict)
    sender_macs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    counted: Mapping[Host, int] = field(default_factory=dict)
    kind: Kind = ROUTER
    devices: frozenset[str] = frozenset()
    transit: Mapping[str, Transit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything `status` shows, read at `now_s`; times are monotonic seconds.

    `table` is None when it does not exist. `round_at_s` is the daemon's last round, `faults` what failed
    in it or in this reading, by part; `beside` are the other tables that are configured, by family;
    `canary` is the running daemon's last one; `trial_left_s` is how long the configuration in force is still
    on trial, 0 when it is not; `neighbours` are the MACs that the neighbour table has for addresses;
    `gateways` are those of other routers, read when there is somebody who may be one;
    `exposures` are the newest ones of this boot, as history has them. `fallback` tells that the built-in
    block of port 25 stands, which a boot loads when the rules cannot be.
    """

    now_s: float
    settings: Settings
    table: Table | None
    interfaces: frozenset[str]
    daemon_runs: bool
    round_at_s: float | None
    verdicts: dict[Host, Verdict]
    reports: SignalLeases[Report]
    faults: dict[str, str] = field(default_factory=dict)
    canary: Run | None = None
    beside: Mapping[str, Table | None] = field(default_factory=dict)
    trial_left_s: float = 0.0
    neighbours: Macs = field(default_factory=dict)
    gateways: frozenset[str] | None = None
    exposures: tuple[Mapping[str, Any], ...] = ()
    fallback: bool = False

    def tables(self) -> list[Table]:
        """Every table of ours that is in the kernel."""
        return [table for table in (self.table, *self.beside.values()) if table is not None]

    def age_s(self, at_s: float | None) -> float | None:
        """How old what is from `at_s` was then; None where there is no such thing."""
        return None if at_s is None or at_s == float("-inf") else round(max(0.0, self.now_s - at_s), 2)

    def senders(self) -> list[Element]:
        """Whom the kernel lets send, in every table."""
        return sorted(element for table in self.tables() for name in SENDERS
                      for element in table.sets.get(name, ()))

    def transit(self) -> Mapping[str, Transit]:
        """What was tried from each interface that is not inside."""
        return self.table.transit if self.table is not None else {}
