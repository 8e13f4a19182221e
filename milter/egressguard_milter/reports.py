"""What a relay tells the routers: its clients' tiers, limits and counts, as one snapshot.

Left every few seconds even when nothing happened, since silence must mean that the relay is down.
"""

from itertools import islice

from egressguard.core.documents import Client, Origin, Report
from egressguard.core.hosts import Host
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.policy import Policy
from egressguard_milter.session import UNADDRESSED
from egressguard_milter.signals import Signals

MAX_PERIOD_S = 5.0
# Encoding holds the interpreter's lock, and every callback waits for it: about a millisecond this way.
MAX_CLIENTS = 1000


def period_s(policy: Policy) -> float:
    """Seconds between two reports: two may be lost before the last one's lifetime ends."""
    return min(MAX_PERIOD_S, policy.report_lifetime_s / 3)


class Reports:
    """Makes the reports of one process; `epoch` distinguishes it from the one before."""

    def __init__(self, policy: Policy, epoch: str, limits: Limits, ledger: Ledger,
                 signals: Signals) -> None:
        self._policy = policy
        self._epoch = epoch
        self._limits = limits
        self._ledger = ledger
        self._signals = signals
        self._sequence = 0

    def make(self, now_s: float) -> Report:
        """The report at `now_s`: clients under a verdict first, then the most recently active."""
        self._sequence += 1
        origin = Origin(self._policy.relay, self._epoch, self._sequence)
        return Report(origin, self._policy.report_lifetime_s,
                      {host: self._client(host, now_s) for host in self._hosts()})

    def _hosts(self) -> list[Host]:
        hosts = dict.fromkeys(islice(self._signals.states, MAX_CLIENTS))
        hosts.update(dict.fromkeys(self._ledger.recent(MAX_CLIENTS)))
        hosts.pop(UNADDRESSED, None)
        return list(islice(hosts, MAX_CLIENTS))

    def _client(self, host: Host, now_s: float) -> Client:
        standing, totals = self._limits.standing(host, now_s), self._ledger.totals(host)
        return Client(standing.tier, standing.limit, totals.accepted, totals.deferred)
