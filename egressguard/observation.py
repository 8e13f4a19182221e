"""Reads everything that `status` shows, each part from where it lives; a part that fails is a finding.

The kernel is asked, not the daemon: what is enforced, who may send and what was counted do not depend on
whether the daemon runs, or on what it believes.
"""

from pathlib import Path

from egressguard import heartbeat
from egressguard.boot import boot_id, now_s
from egressguard.core.attempts import Sample
from egressguard.core.documents import Report
from egressguard.core.errors import DatabaseError, ExchangeError
from egressguard.core.health import Observation, Table
from egressguard.core.hosts import Host
from egressguard.core.leases import Lease
from egressguard.core.ruleset import CONFIGURED, VERSION_CHAIN
from egressguard.core.settings import Settings
from egressguard.core.verdict import Verdict
from egressguard.database import Database
from egressguard.exchange import open_exchange
from egressguard.heartbeat import Pulse
from egressguard.kernel import Netfilter, incarnation


def observe(settings: Settings) -> Observation:
    """The state of this router now. Raises KernelError when the kernel cannot be asked."""
    runs, pulse = heartbeat.read(Path(settings.runtime_directory))
    faults = dict(pulse.faults) if pulse is not None and runs else {}
    verdicts, fingerprint = _history(settings, faults)
    kernel = Netfilter()
    try:
        return Observation(
            now_s=now_s(), settings=settings, table=_table(kernel, fingerprint),
            interfaces=kernel.interfaces(), daemon_runs=runs,
            round_at_s=pulse.at_s if pulse is not None else None,
            verdicts=verdicts, reports=_reports(settings, pulse, faults), faults=faults)
    finally:
        kernel.close()


def _history(settings: Settings, faults: dict[str, str]) -> tuple[dict[Host, Verdict], str | None]:
    path = Path(settings.database)
    if not path.exists():
        return {}, None
    try:
        database = Database(path, boot_id(), read_only=True)
        try:
            return database.verdicts(now_s()), database.meta("fingerprint")
        finally:
            database.close()
    except DatabaseError as error:
        faults["database"] = str(error)
        return {}, None


def _table(kernel: Netfilter, fingerprint: str | None) -> Table | None:
    ruleset = kernel.ruleset()
    if ruleset is None:
        return None
    ours = VERSION_CHAIN in ruleset.chains
    at_s = now_s()
    known = fingerprint.split() if fingerprint else []
    same_table = known[:1] == [incarnation(boot_id(), ruleset)]
    return Table(
        chains=ruleset.chains, hooks=ruleset.hooks, dormant=ruleset.dormant,
        intact=known[1:] == [ruleset.fingerprint] if same_table else None,
        sets=kernel.sets() if ours else {name: frozenset() for name in CONFIGURED},
        sample=kernel.sample(at_s) if ours else Sample(at_s),
        leases=kernel.leases() if ours else {}, sender_macs=kernel.sender_macs() if ours else {})


def _reports(settings: Settings, pulse: Pulse | None, faults: dict[str, str]) -> dict[str, Lease[Report]]:
    """The relays' reports; when each was first seen is known to the daemon alone."""
    received = pulse.reports if pulse is not None else {}
    try:
        exchange = open_exchange(settings.exchange)
        try:
            return {report.origin.name: Lease(report, received.get(report.origin.name, float("-inf")))
                    for report in exchange.reports()}
        finally:
            exchange.close()
    except ExchangeError as error:
        faults["exchange"] = str(error)
        return {}
