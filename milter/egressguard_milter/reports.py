"""What a relay tells the routers: its clients' tiers, limits, counts and volumes, as one snapshot.

Left every few seconds even when nothing happened, since silence must mean that the relay is down.
"""

from itertools import islice

from egressguard.core.documents import MAX_CLIENTS, Client, Origin, Report
from egressguard.core.hosts import Host
from egressguard_milter.limits import Limits
from egressguard_milter.policy import Policy
from egressguard_milter.signals import Signals
from egressguard_milter.tallies import Tallies, distinct
from egressguard_milter.terms import UNADDRESSED, Allowance

MAX_PERIOD_S = 5.0


def period_s(policy: Policy) -> float:
    """Seconds between two reports: two may be lost before the last one's lifetime ends."""
    return min(MAX_PERIOD_S, policy.report_lifetime_s / 3)


class Reports:
    """Makes the reports of one process; `epoch` distinguishes it from the one before."""

    def __init__(self, epoch: int, limits: Limits, tallies: Tallies, signals: Signals) -> None:
        self._epoch = epoch
        self._limits, self._tallies, self._signals = limits, tallies, signals
        self._sequence = 0

    def make(self, now_s: float) -> Report:
        """The report at `now_s`: clients under a verdict first, then the most recently active."""
        self._sequence += 1
        policy = self._limits.policy
        return Report(Origin(policy.relay, self._epoch, self._sequence), policy.report_lifetime_s,
                      {host: self._client(host, now_s) for host in self._hosts()})

    def allowance(self, host: Host) -> Allowance:
        """What the policy says about a host as it was seen last: rules may name an address of it."""
        return self._limits.allowance(*self._tallies.last_met(host))

    def _hosts(self) -> list[Host]:
        hosts = dict.fromkeys(islice(self._signals.states, MAX_CLIENTS))
        hosts.update(dict.fromkeys(self._tallies.recent(MAX_CLIENTS)))
        hosts.pop(UNADDRESSED, None)
        return list(islice(hosts, MAX_CLIENTS))

    def _client(self, host: Host, now_s: float) -> Client:
        standing = self._limits.scaled(self.allowance(host), now_s).standing
        tally = self._tallies.of(host)
        messages = sum(n for limit, n in tally.deferred.items()
                       if limit not in ("connections", "open_connections", "sessions"))
        return Client(standing.tier, standing.limit, tally.accepted, messages, dict(tally.deferred),
                      tally.recipients, tally.refused_recipients, distinct(tally.senders),
                      distinct(tally.domains), tally.declared_bytes, tally.connections,
                      max(tally.open, tally.most_open.most(now_s)), tally.most_messages.most(now_s))


