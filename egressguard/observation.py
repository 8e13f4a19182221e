"""Reads everything that `status` shows, each part from where it lives; a part that fails is a finding.

The kernel is asked, not the daemon: what is enforced, who may send and what was counted do not depend on
whether the daemon runs, or on what it believes.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from egressguard import heartbeat
from egressguard.boot import boot_id, now_s
from egressguard.config import DEFAULT_PATH, Site
from egressguard.configurations import Configurations
from egressguard.core import plan
from egressguard.core.attempts import Sample
from egressguard.core.documents import Bulletin, Report
from egressguard.core.errors import DatabaseError, ExchangeError, KernelError
from egressguard.core.forgery import Macs, crowds
from egressguard.core.hosts import Host
from egressguard.core.leases import Lease
from egressguard.core.observation import Observation, Table
from egressguard.core.ruleset import TABLE
from egressguard.core.settings import Settings
from egressguard.core.tables import BRIDGE, LAST_LINE, ROUTER, TABLES
from egressguard.core.tables import Table as Kind
from egressguard.core.verdict import UNDECIDED, Verdict
from egressguard.core.wanted import Here, elements, tables
from egressguard.database import Database
from egressguard.exchange import open_exchange
from egressguard.heartbeat import Pulse
from egressguard.kernel import FALLBACK, Netfilter, Ruleset, cgroups, owner
from egressguard.kernel.neighbours import read_gateways
from egressguard.kernel.rules_file import rules_of

SHOWN_EXPOSURES = 3


def observe(site: Site, config: Path = DEFAULT_PATH) -> Observation:
    """The state of this router now, compared with the configuration in force, which is the one that the file
    says (`site`, read from `config`) unless that is on trial or was not confirmed.

    Raises KernelError when the kernel cannot be asked.
    """
    settings = site.settings
    runs, pulse = heartbeat.read(Path(settings.runtime_directory))
    faults = dict(pulse.faults) if pulse is not None and runs else {}
    site, trial_left_s = _in_force(site, config, faults)
    settings = site.settings
    kernel = Netfilter()
    try:
        verdicts, exposures = _history(settings, faults)
        _unasked(kernel, settings, faults)
        _owner(kernel, settings, runs, faults)
        reports = _exchange(settings, pulse, verdicts, faults)
        table = _table(kernel, site, ROUTER, faults)
        beside = {kind.family: _beside(kernel, site, kind, faults) for kind in tables(settings)[1:]}
        return Observation(
            now_s=now_s(), settings=settings, table=table, beside=beside,
            neighbours=_neighbours(kernel, [table, *beside.values()], faults),
            gateways=_gateways(settings, [table, *beside.values()], faults),
            interfaces=kernel.interfaces(), daemon_runs=runs,
            round_at_s=pulse.at_s if pulse is not None else None,
            verdicts=verdicts, reports=reports, faults=faults,
            canary=pulse.canary if pulse is not None and runs else None, trial_left_s=trial_left_s,
            exposures=exposures, fallback=kernel.fallback())
    finally:
        kernel.close()


def _unasked(kernel: Netfilter, settings: Settings, faults: dict[str, str]) -> None:
    """A table that the configuration has ceased to ask for goes on blocking until somebody removes it."""
    asked = tables(settings)
    for kind in (table for table in TABLES if table not in asked):
        with closing(kernel.beside(kind)) as other:
            for name in ([TABLE] * (other.ruleset() is not None) + [FALLBACK] * other.fallback()):
                faults[f"{kind.family} rules"] = (
                    f"table {kind.family} {name} stands in the kernel, and is not configured: it goes "
                    f"on blocking; `nft delete table {kind.family} {name}` removes it")


def _owner(kernel: Netfilter, settings: Settings, daemon_runs: bool, faults: dict[str, str]) -> None:
    """Whether what the configuration asks for, tables that nobody else can change, is so."""
    if not settings.table_owner:
        return
    ruleset = kernel.ruleset()
    if why := owner.why_not():
        faults["table_owner"] = f"not possible here, what others change is put right instead: {why}"
    elif daemon_runs and ruleset is not None and not ruleset.owned:
        faults["table_owner"] = "the table has no owner: others can change it, which is put right"


def _in_force(site: Site, config: Path, faults: dict[str, str]) -> tuple[Site, float]:
    """The site to compare the kernel with, and for how long a trial goes on."""
    path = Path(site.settings.database)
    if not path.exists():
        return site, 0.0
    try:
        database = Database(path, boot_id(), read_only=True)
        try:
            configurations = Configurations(database, config)
            left_s = configurations.trial_left_s(now_s())
            unconfirmed = configurations.unconfirmed(site, now_s())
            current = configurations.current(now_s()) if left_s or unconfirmed else None
        finally:
            database.close()
    except DatabaseError:
        return site, 0.0  # reading the verdicts fails as well, and says so
    if unconfirmed:
        faults["configuration"] = unconfirmed
    return current.site if current is not None else site, left_s


def _history(settings: Settings, faults: dict[str, str]
             ) -> tuple[dict[Host, Verdict], tuple[Mapping[str, Any], ...]]:
    """The last verdicts, and the last exposures of this boot."""
    path = Path(settings.database)
    if not path.exists():
        return {}, ()
    try:
        database = Database(path, boot_id(), read_only=True)
        try:
            recent = [e.exposure for e in database.exposures(SHOWN_EXPOSURES) if e.boot == boot_id()]
            return database.verdicts(now_s()), tuple(e for e in recent if e is not None)
        finally:
            database.close()
    except DatabaseError as error:
        faults["database"] = str(error)
        return {}, ()


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
    macs = kernel.macs(site.settings.last_line.interfaces) if kind is LAST_LINE else ()
    here = Here(site.settings, site.uids, kernel.ports() if kind is BRIDGE else {}, groups, *macs)
    sets = kernel.sets()
    return Table(
        chains=ruleset.chains, hooks=ruleset.hooks, dormant=ruleset.dormant,
        intact=_intact(kernel, site, kind, ruleset, faults),
        changes=(*plan.diff(sets, elements(kind, here)), *kernel.planted()), sets=sets,
        sample=kernel.sample(at_s).without(site.settings.canary_keys()), leases=kernel.leases(),
        sender_macs=kernel.sender_macs(), counted=_counted(kernel, site.settings), kind=kind,
        devices=ruleset.devices, transit=kernel.transit())


def _neighbours(kernel: Netfilter, found: Iterable[Table | None], faults: dict[str, str]) -> Macs:
    """What the neighbour table has of the addresses that packets came from."""
    addresses = {address for table in found if table is not None
                 for macs in (table.sample.macs, table.sender_macs) for address in macs}
    try:
        return kernel.neighbours(addresses) if addresses else {}
    except KernelError as error:
        faults["neighbours"] = f"{error}: whether addresses are forged is not known"
        return {}


def _gateways(settings: Settings, found: Iterable[Table | None], faults: dict[str, str]
              ) -> frozenset[str] | None:
    """Only where somebody may be one: a router of the Internet has a million routes."""
    if not crowds((table.sample.macs for table in found if table is not None), settings):
        return None
    try:
        return read_gateways()
    except KernelError as error:
        faults["gateways"] = f"{error}: whether a MAC is another router's is not known"
        return None


def _counted(kernel: Netfilter, settings: Settings) -> dict[Host, int]:
    return {host: count for host, count in kernel.only_counted().items()
            if host not in settings.canary_keys()}


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
        if bulletin.causes.get(key) == UNDECIDED:
            continue  # relays are told the worse of two possibilities, people that it is not decided
        if host not in verdicts or verdicts[host].state.rank < state.rank:
            verdicts[host] = Verdict(host, state, 0.0, now_s(), now_s(), why="published, not recorded")
