"""What the kernel does now: enforce, only count, or nobody knows. What cannot be known is not claimed."""

from collections.abc import Iterator

from egressguard.core.ages import to_a_tenth
from egressguard.core.canary import Fate
from egressguard.core.observation import Observation, Table
from egressguard.core.plan import too_loose
from egressguard.core.ruleset import ALL_FAMILIES, SMTP_PORTS
from egressguard.core.tables import LAST_LINE


def mode_of(seen: Observation) -> str:
    """What the kernel does now: enforce, observe, observe in one family only, opened, nothing; or unknown,
    when its rules are not ours, or let more through than they should.
    """
    if _enforces_everywhere(seen):
        return "unknown" if _leaks(seen) else "enforce"
    observed = seen.table.sets["observed_family"] if seen.table is not None else frozenset()
    if observed == ALL_FAMILIES:
        return "observe"
    if seen.table is not None and opened_s(seen.table):
        return "opened"
    if observed:
        return "observe in part"
    return "none" if seen.table is None or seen.table.dormant else "unknown"


def observed_groups(seen: Observation) -> list[str]:
    """Groups that are only observed while the site enforces."""
    if mode_of(seen) != "enforce" or seen.table is None:
        return []
    networks = [network for name in ("group_observe4", "group_observe6")
                for port, network in sorted(seen.table.sets[name]) if (port,) in SMTP_PORTS]
    return [f"but only observe {', '.join(networks)}"] if networks else []


def orders_carried_out(seen: Observation) -> list[str]:
    """The exceptions and quarantines in the kernel, as it has them."""
    leases = seen.table.leases if seen.table is not None else {}
    return [f"{name.rstrip('46').replace('_', ' ')} {' '.join(element)} for {to_a_tenth(left_s)} more"
            for name, elements in sorted(leases.items()) for element, left_s in sorted(elements.items())]


def enforces(table: Table | None) -> bool:
    """Whether the kernel refuses direct SMTP now."""
    return (table is not None and table.intact is True and not list(gaps(table))
            and not table.sets.get("observed_family") and not opened_s(table))


def _enforces_everywhere(seen: Observation) -> bool:
    """The same for what is routed and for what is bridged."""
    return enforces(seen.table) and all(
        enforces(table) for family, table in seen.beside.items() if family != LAST_LINE.family)


def _leaks(seen: Observation) -> bool:
    """Whether the last canary got out: whatever the rules look like, they do not stand on the path."""
    return seen.canary is not None and bool(seen.canary.having(Fate.LEAKED))


def opened_s(table: Table) -> float:
    """For how many seconds port 25 is still open by an operator's order; 0 when it is not."""
    return max(table.leases.get("opened_family", {}).values(), default=0.0)


def gaps(table: Table) -> Iterator[str]:
    """What in the table lets more through than it should, in words."""
    version = table.kind.version_chain
    if version not in table.chains:
        yield f"the table in the kernel is another version's (no chain {version})"
    if table.dormant:
        yield "the table is dormant: its hooks are switched off"
    for name in ("smtp_ports", "blocked_ports"):
        if name in table.sets and not table.sets[name] >= SMTP_PORTS:
            yield f"set {name} does not hold port 25"
    if table.intact is False:
        yield "the rules in the kernel are not those of the rules file: what they let through is unknown"
    loose = too_loose(table.changes)
    if loose:
        yield (f"more is let through than the configuration says: {', '.join(loose)} differ "
               "(`egressguard plan` shows how)")
