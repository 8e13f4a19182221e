"""The router's metrics: what its last round found, in Prometheus' words.

No label holds what an attacker can write or multiply: there is none for hosts. `egressguard hosts --json` is
for these.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from egressguard.boot import now_s
from egressguard.core.attempts import Totals
from egressguard.core.canary import Fate
from egressguard.core.settings import Settings
from egressguard.core.verdict import State
from egressguard.heartbeat import Pulse

MOST_RELAYS = 50  # a label for each; more than that are not told apart
PARTS = ("configuration", "rules", "conntrack", "kernel", "database", "exchange", "last_good", "other")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round leaves for the metrics; replaced as a whole, never changed."""

    settings: Settings
    enforcing: bool
    totals: Totals | None = None
    states: Mapping[State, int] = field(default_factory=dict)
    orders: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 0
    exposures: int = 0
    exposed_s: float = 0.0
    alerts_pending: int = 0
    on_trial: bool = False
    pulse: Pulse | None = None


class RouterMetrics:
    """Holds the last round's figures; `collect` may be called from another thread, which then asks for what
    is `forged`: how many addresses others send in the name of, by what they are.
    """

    def __init__(self, forged: Callable[[Settings], Mapping[str, int]]) -> None:
        self.figures: Figures | None = None
        self._forged = forged

    def collect(self) -> Iterable[Metric]:
        """All metrics of the router."""
        figures = self.figures
        return [] if figures is None else [*_enforcement(figures), *_counters(figures.totals),
                                           *_hosts(figures), *_forgeries(self._forged(figures.settings)),
                                           *_daemon(figures), *_canary(figures.pulse)]


COUNTERS = {
    "egressguard_attempts": ("attempts", "Connection attempts (SYNs) to SMTP ports that were refused"),
    "egressguard_blocked_packets": ("blocked", "Packets towards SMTP ports that were refused"),
    "egressguard_quarantined_packets": ("quarantined", "Packets of quarantined hosts"),
    "egressguard_spoofed_packets": ("spoofed", "Refused packets with a forged source"),
    "egressguard_transit_packets": ("transit", "Refused packets from interfaces that are not inside"),
    "egressguard_unasked_packets": ("unasked", "SYN-ACKs of mail servers that no connection asked for"),
    "egressguard_odd_packets": ("odd", "Refused packets whose port cannot be read"),
    "egressguard_tunnel_packets": ("tunneled", "Packets towards the outside that can hide SMTP; they pass"),
}
OVERFLOWS = {"host": "overflow", "destination": "fanout_overflow", "mac": "mac_overflow"}


def _counters(totals: Totals | None) -> Iterator[Metric]:
    if totals is None:
        return
    for name, (key, text) in COUNTERS.items():
        yield CounterMetricFamily(name, f"{text}; since the table was made.", value=getattr(totals, key))
    overflow = CounterMetricFamily("egressguard_overflows", "Attempts without room in a counting set, by "
                                   "what is not known of them.", labels=["of"])
    for label, key in OVERFLOWS.items():
        overflow.add_metric([label], getattr(totals, key, 0))
    yield overflow


def _enforcement(figures: Figures) -> Iterator[Metric]:
    yield GaugeMetricFamily("egressguard_enforcing", "1 when the last round left port 25 shut for all but "
                            "the senders, 0 otherwise.", value=figures.enforcing)
    mode = GaugeMetricFamily("egressguard_mode", "1 for the configured mode.", labels=["mode"])
    for name in ("enforce", "observe"):
        mode.add_metric([name], figures.settings.mode == name)
    yield mode
    yield GaugeMetricFamily("egressguard_trial", "1 while the configuration is on trial.",
                            value=figures.on_trial)
    yield CounterMetricFamily("egressguard_exposures", "Times in which somebody's change of the rules may "
                              "have let direct SMTP through.", value=figures.exposures)
    yield CounterMetricFamily("egressguard_exposure_seconds", "How long these were in all.",
                              value=figures.exposed_s)


def _hosts(figures: Figures) -> Iterator[Metric]:
    hosts = GaugeMetricFamily("egressguard_hosts", "Hosts by verdict.", labels=["verdict"])
    for state in State:
        hosts.add_metric([state], figures.states.get(state, 0))
    yield hosts
    orders = GaugeMetricFamily("egressguard_orders", "Standing orders of operators.", labels=["kind"])
    for kind in ("exception", "quarantine", "open"):
        orders.add_metric([kind], figures.orders.get(kind, 0))
    yield orders
    yield GaugeMetricFamily("egressguard_alerts_pending", "Alerts that could not be delivered yet.",
                            value=figures.alerts_pending)


def _forgeries(counts: Mapping[str, int]) -> Iterator[Metric]:
    forged = GaugeMetricFamily("egressguard_forged_addresses", "Addresses of hosts and senders in whose name "
                               "another MAC has sent within the last hour.", labels=["of"])
    for label, count in sorted(counts.items()):
        forged.add_metric([label], count)
    yield forged


def _daemon(figures: Figures) -> Iterator[Metric]:
    pulse = figures.pulse
    if pulse is None:
        return
    yield CounterMetricFamily("egressguard_rounds", "Rounds since the daemon started.", value=figures.rounds)
    yield GaugeMetricFamily("egressguard_round_duration_seconds", "How long the last round took.",
                            value=pulse.round_s)
    yield GaugeMetricFamily("egressguard_round_age_seconds", "How long ago the last round began.",
                            value=max(0.0, now_s() - pulse.at_s))
    faults = GaugeMetricFamily("egressguard_fault", "1 for each part that failed in the last round.",
                               labels=["part"])
    failed = {part if part in PARTS else "other" for part in pulse.faults}
    for part in PARTS:
        faults.add_metric([part], part in failed)
    yield faults
    reports = GaugeMetricFamily("egressguard_relay_report_age_seconds", "How long ago each relay was heard.",
                                labels=["relay"])
    for name, at_s in sorted(pulse.reports.items())[:MOST_RELAYS]:
        reports.add_metric([name], max(0.0, now_s() - at_s))
    yield reports


def _canary(pulse: Pulse | None) -> Iterator[Metric]:
    run = pulse.canary if pulse is not None else None
    if run is None:
        return
    yield GaugeMetricFamily("egressguard_canary_age_seconds", "How long ago the last canary came back.",
                            value=max(0.0, now_s() - run.at_s))
    fates = GaugeMetricFamily("egressguard_canary", "1 for the fate of the last canary in each family.",
                              labels=["family", "fate"])
    for flight in run.flights:
        for fate in Fate:
            fates.add_metric([f"ipv{flight.family}" if flight.family else "none", fate], flight.fate is fate)
    yield fates
