"""Reads everything that `status` shows, each part from where it lives; a part that fails is a finding.

The kernel is asked, not the daemon: what is enforced, who may send and what was counted do not depend on
whether the daemon runs, or on what it believes.
"""

from contextlib import closing
from pathlib import Path

from egressguard import heartbeat
from egressguard.boot import boot_id, now_s
from egressguard.config import Site
from egressguard.core import plan
from egressguard.core.attempts import Sample
from egressguard.core.documents import Bulletin, Report
from egressguard.core.errors import DatabaseError, ExchangeError, KernelError
from egressguard.core.health import Observation, Table
from egressguard.core.hosts import Host
from egressguard.core.leases import Lease
from egressguard.core.settings import Settings
from egressguard.core.tables import BRIDGE, ROUTER, TABLES
from egressguard.core.tables import Table as Kind
from egressguard.core.verdict import Verdict
from egressguard.core.wanted import Here, elements, tables
from egressguard.database import Database
from egressguard.exchange import open_exchange
from egressguard.heartbeat import Pulse
from egressguard.kernel import Netfilter, Ruleset, cgroups
from egressguard.kernel.rules_file import rules_of


def observe(site: Site) -> Observation:
    """The state of this router now. Raises KernelError when the kernel cannot be asked."""
    settings = site.settings
    runs, pulse = heartbeat.read(Path(settings.runtime_directory))
    faults = dict(pulse.faults) if pulse is not None and runs else {}
    kernel = Netfilter()
    try:
        verdicts = _verdicts(settings, faults)
        _unasked(kernel, settings, faults)
        reports = _exchange(settings, pulse, verdicts, faults)
        return Observation(
            now_s=now_s(), settings=settings, table=_table(kernel, site, ROUTER, faults),
            beside={table.family: _beside(kernel, site, table, faults) for table in tables(settings)[1:]},
            interfaces=kernel.interfaces(), daemon_runs=runs,
            round_at_s=pulse.at_s if pulse is not None else None,
            verdicts=verdicts, reports=reports, faults=faults,
            canary=pulse.canary if pulse is not None and runs else None)
    finally:
        kernel.close()


def _unasked(kernel: Netfilter, settings: Settings, faults: dict[str, str]) -> None:
    """A table that the configuration has ceased to ask for goes on blocking until somebody removes it."""
    asked = tables(settings)
    for kind in (table for table in TABLES if table not in asked):
        with closing(kernel.beside(kind)) as other:
            if other.ruleset() is not None:
                faults[f"{kind.family} rules"] = (
                    f"table {kind.family} egressguard stands in the kernel, and is not configured: it goes "
                    f"on blocking; `nft delete table {kind.family} egressguard` removes it")


def _verdicts(settings: Settings, faults: dict[str, str]) -> dict[Host, Verdict]:
    path = Path(settings.database)
    if not path.exists():
        return {}
    try:
        database = Database(path, boot_id(), read_only=True)
        try:
            return database.verdicts(now_s())
        finally:
            database.close()
    except DatabaseError as error:
        faults["database"] = str(error)
        return {}


def _beside(kernel: Netfilter, site: Site, kind: Kind, faults: dict[str, str]) -> Table | None:
    with closing(kernel.beside(kind)) as other:
        return _table(other, site, kind, faults)


def _table(kernel: Netfilter, site: Site, kind: Kind, faults: dict[str, str]) -> Table | None:
    ruleset = kernel.ruleset()
    if ruleset is None:
        return None
    at_s = now_s()
    if kind.version_chain not in ruleset.chains:
        return Table(ruleset.chains, ruleset.hooks, ruleset.dormant, False, (),
                     {name: frozenset() for name in kind.configured}, Sample(at_s), kind=kind)
    groups = _cgroups(site.settings, faults) if kind is ROUTER else ()
    here = Here(site.settings, site.uids, kernel.ports() if kind is BRIDGE else {}, groups)
    sets = kernel.sets()
    return Table(
        chains=ruleset.chains, hooks=ruleset.hooks, dormant=ruleset.dormant,
        intact=_intact(kernel, site, kind, ruleset, faults),
        changes=plan.diff(sets, elements(kind, here)), sets=sets,
        sample=kernel.sample(at_s).without(site.settings.canary_keys()), leases=kernel.leases(),
        sender_macs=kernel.sender_macs(), kind=kind, devices=ruleset.devices)


def _cgroups(settings: Settings, faults: dict[str, str]) -> tuple[str, ...]:
    """Those of the configured ones that exist; the others are awaited, and so is their mail."""
    found = cgroups.existing(settings.own.cgroups)
    missing = [name for name in settings.own.cgroups if not cgroups.existing((name,))]
    if missing:
        faults["own.cgroups"] = f"{', '.join(missing)}: no such control group (cgroup v2) exists now"
    return found


def _intact(kernel: Netfilter, site: Site, kind: Kind, found: Ruleset, faults: dict[str, str]) -> bool | None:
    rules = rules_of(site.settings, site.rules, kind)
    try:
        return found.fingerprint == kernel.expected(rules).fingerprint
    except KernelError as error:
        faults["rules"] = str(error)
        return None


def _exchange(settings: Settings, pulse: Pulse | None, verdicts: dict[Host, Verdict],
              faults: dict[str, str]) -> dict[str, Lease[Report]]:
    """The relays' reports; when each was first seen is known to the daemon alone.

    Adds to `verdicts` what this router has told the relays and its database does not know.
    """
    received = pulse.reports if pulse is not None else {}
    try:
        exchange = open_exchange(settings.exchange, settings.exchange_key, read_only=True)
        try:
            for bulletin in exchange.bulletins():
                if bulletin.origin.name == settings.router:
                    _add_published(bulletin, settings, verdicts)
            return {report.origin.name: Lease(report, received.get(report.origin.name, float("-inf")))
                    for report in exchange.reports()}
        finally:
            exchange.close()
    except ExchangeError as error:
        faults["exchange"] = str(error)
        return {}


def _add_published(bulletin: Bulletin, settings: Settings, verdicts: dict[Host, Verdict]) -> None:
    machine_of = settings.machine_of()
    for key, state in bulletin.verdicts.items():
        host = machine_of.get(key, key)
        if host not in verdicts or verdicts[host].state.rank < state.rank:
            verdicts[host] = Verdict(host, state, 0.0, now_s(), now_s(), why="published, not recorded")
