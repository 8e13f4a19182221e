"""Whether all is well, from what was observed: pure, so that every combination can be tested.

The exit code is the worst that is true: 3 not enforcing, 2 degraded, 1 a host is compromised, 0 healthy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from egressguard.core.canary import Fate
from egressguard.core.forgery import Forgery, crowds, forgeries
from egressguard.core.mode import gaps, opened_s
from egressguard.core.observation import Observation, Table
from egressguard.core.plan import too_loose
from egressguard.core.ruleset import ALL_FAMILIES
from egressguard.core.tables import LAST_LINE
from egressguard.core.verdict import State


class Health(IntEnum):
    """The exit codes of `egressguard status`, from good to bad."""

    HEALTHY = 0
    COMPROMISED = 1
    DEGRADED = 2
    NOT_ENFORCING = 3


WORDS = {Health.HEALTHY: "healthy", Health.COMPROMISED: "a host is compromised",
         Health.DEGRADED: "degraded", Health.NOT_ENFORCING: "NOT ENFORCING"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not well, in words."""

    health: Health
    text: str


NO_TABLE = "the table is not in the kernel: start egressguard, or load rules/ with nft -f"
FALLBACK_ALONE = ("the rules could not be loaded: table inet egressguard_fallback shuts port 25 for "
                  "everybody, senders too, and counts no host (`journalctl -u egressguard-rules` says why); "
                  "starting egressguard replaces it")
STALLED_PERIODS = 20
CANARY_PERIODS, CANARY_GRACE_S = 2, 10


def findings(seen: Observation) -> list[Finding]:
    """All that is not well, worst first."""
    found = [*_enforcement(seen), *_canary(seen), *_daemon(seen), *_kernel(seen), *_exchange(seen),
             *_hosts(seen)]
    return sorted(found, key=lambda finding: -finding.health)


def health(found: list[Finding]) -> Health:
    """The worst of `found`."""
    return max((finding.health for finding in found), default=Health.HEALTHY)


def _enforcement(seen: Observation) -> Iterator[Finding]:
    if seen.table is None:
        yield Finding(Health.NOT_ENFORCING, FALLBACK_ALONE if seen.fallback else NO_TABLE)
        return
    for gap in gaps(seen.table):
        yield Finding(Health.NOT_ENFORCING, gap)
    for family, table in seen.beside.items():
        yield from _beside(family, table, seen)
    observed = seen.table.sets["observed_family"]
    if observed:
        families = "" if observed == ALL_FAMILIES else f" for {', '.join(sorted(f for f, in observed))}"
        yield Finding(Health.NOT_ENFORCING, f"mode observe{families}: attempts are counted, not blocked")
    if opened_s(seen.table):
        yield Finding(Health.NOT_ENFORCING, "an operator has opened port 25 for another "
                      f"{opened_s(seen.table):.0f} s: attempts are counted, not blocked")


def _beside(family: str, table: Table | None, seen: Observation) -> Iterator[Finding]:
    """Without the bridge's table frames pass unjudged; the last line stands behind others that still do."""
    worst = Health.DEGRADED if family == LAST_LINE.family else Health.NOT_ENFORCING
    missing = sorted(set(seen.settings.last_line.interfaces) - seen.interfaces)
    if family == LAST_LINE.family and missing:
        yield Finding(Health.DEGRADED, f"the last line waits for {', '.join(missing)}, which does not exist")
    if table is None:
        if family != LAST_LINE.family or set(missing) < set(seen.settings.last_line.interfaces):
            yield Finding(worst, f"table {family} egressguard is not in the kernel: start egressguard")
        return
    for gap in gaps(table):
        yield Finding(worst, f"table {family} egressguard: {gap}")
    if family == LAST_LINE.family:
        for name in sorted(set(seen.settings.last_line.interfaces) - table.devices - set(missing)):
            yield Finding(Health.DEGRADED, f"the last line does not stand on {name}")


def _canary(seen: Observation) -> Iterator[Finding]:
    """A canary that stayed because nothing would have refused it says what has been said already."""
    run = seen.canary
    if run is None:
        return
    for flight in run.having(Fate.LEAKED):
        yield Finding(Health.NOT_ENFORCING, flight.text)
    for flight in run.having(Fate.UNCOUNTED, Fate.UNABLE):
        yield Finding(Health.DEGRADED, flight.text)
    age_s = seen.now_s - run.at_s
    if age_s > CANARY_PERIODS * seen.settings.canary.period_s + CANARY_GRACE_S:
        yield Finding(Health.DEGRADED, f"the last canary is {age_s:.0f} s old: what it proved may be over")


def _daemon(seen: Observation) -> Iterator[Finding]:
    if not seen.daemon_runs:
        yield Finding(Health.DEGRADED, "the daemon does not run: verdicts are old, nothing is repaired")
    elif seen.round_at_s is None or \
            seen.now_s - seen.round_at_s > STALLED_PERIODS * seen.settings.period_s + 1:
        yield Finding(Health.DEGRADED, "the daemon is stalled: it has made no round for long")
    for part, text in sorted(seen.faults.items()):
        yield Finding(Health.DEGRADED, f"{part}: {text}")


def _kernel(seen: Observation) -> Iterator[Finding]:
    for table in seen.tables():
        yield from _counted(table)
    yield from _forged(seen)
    if seen.table is None:
        return
    for name, in sorted(seen.table.sets["inside_if"]):
        if name not in seen.interfaces:
            yield Finding(Health.DEGRADED, f"inside interface {name} does not exist{_cut_off(name, seen)}")


def _counted(table: Table) -> Iterator[Finding]:
    if table.intact is None:
        yield Finding(Health.DEGRADED, "the rules could not be compared with the rules file")
    others = {change.set_name for change in table.changes} - set(too_loose(table.changes))
    if others:
        yield Finding(Health.DEGRADED, f"set {', '.join(sorted(others))} is not as configured "
                      "(`egressguard plan` shows how)")
    totals = table.sample.totals
    if totals.overflow or totals.fanout_overflow:
        yield Finding(Health.DEGRADED, f"a counting set was full: {totals.overflow} attempts without their "
                      f"host, {totals.fanout_overflow} without their destination (blocked all the same)")
    if totals.counted_overflow:
        yield Finding(Health.DEGRADED, f"a counting set was full: of {totals.counted_overflow} SYNs to ports "
                      "that are only counted nobody knows whose they were")
    if totals.mac_overflow:
        yield Finding(Health.DEGRADED, f"a set of MACs was full: {totals.mac_overflow} packets without their "
                      "MAC, so a forged address may not show")
    if totals.stray:
        yield Finding(Health.DEGRADED, f"{totals.stray} SMTP packets that no rule had let pass came as far "
                      "as the last line, and were dropped there: something leads around the rules "
                      "(`egressguard doctor`)")


def _cut_off(interface: str, seen: Observation) -> str:
    senders = [s.name for s in seen.settings.sender
               if any(interface in seen.settings.interfaces_of(a) for a in s.addresses)]
    return f": cut off behind it: {', '.join(senders)}" if senders else ""


def attempts_forged(seen: Observation) -> list[Forgery]:
    """Attempts that did not come from the machine that has their address, as far as MACs tell."""
    return forgeries((table.sample.macs for table in seen.tables()), seen.neighbours, seen.settings)


def _forged(seen: Observation) -> Iterator[Finding]:
    """A neighbour's forgery, or a machine that was replaced: a person decides."""
    senders = (table.sender_macs for table in seen.tables())
    for forgery in forgeries(senders, seen.neighbours, seen.settings):
        told = forgery.of("connections", "sender ")
        yield Finding(Health.DEGRADED, f"{told}; a neighbour may be forging it")
    for forgery in attempts_forged(seen):
        yield Finding(Health.DEGRADED, f"{forgery.of('attempts')}; a neighbour may be framing it")
    for crowd in crowds((table.sample.macs for table in seen.tables()), seen.settings):
        if seen.gateways is None or crowd.mac not in seen.gateways:
            doubt = "" if seen.gateways is not None else " (or it is a router: its next hops are not known)"
            yield Finding(Health.DEGRADED, f"{crowd}{doubt}")


def _exchange(seen: Observation) -> Iterator[Finding]:
    for name, lease in sorted(seen.reports.items()):
        if not lease.fresh(seen.now_s):
            yield Finding(Health.DEGRADED, f"relay {name} is silent: its last report is out of date")


def _hosts(seen: Observation) -> Iterator[Finding]:
    names = seen.settings.names()
    for host, verdict in sorted(seen.verdicts.items()):
        if verdict.state is State.COMPROMISED:
            name = f" ({names[host]})" if host in names else ""
            yield Finding(Health.COMPROMISED, f"host {host}{name} is compromised")
