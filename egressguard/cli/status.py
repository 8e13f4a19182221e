"""The status as an operator sees it, in 80 columns.

Every number says how old it is: what comes from the kernel is as old as the reading, a verdict as old as
the round that last judged it, a tier as old as the relay's report.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table as Grid

from egressguard.cli.hosts import host_grid
from egressguard.config import read_site
from egressguard.core import canary
from egressguard.core.ages import to_a_tenth
from egressguard.core.attempts import Transit
from egressguard.core.health import WORDS, Finding, Health, findings, health
from egressguard.core.mode import mode_of, observed_groups, orders_carried_out
from egressguard.core.observation import Observation, Table
from egressguard.core.standings import Standing, standings
from egressguard.core.tables import LAST_LINE
from egressguard.observation import observe

COLOURS = {Health.HEALTHY: "green", Health.COMPROMISED: "red", Health.DEGRADED: "yellow",
           Health.NOT_ENFORCING: "bold red"}
INTACT = {True: "intact", False: "EDITED", None: "not compared"}
SHOWN = 3
BESIDE = {"bridge": "bridge", "netdev": "last line"}


def terminal() -> Console:
    """Standard output; colour only on a terminal, never with NO_COLOR."""
    return Console(highlight=False, emoji=False)  # an emoji code such as :a: is also IPv6


def show(seen: Observation, found: list[Finding], console: Console) -> None:
    """Prints the status to `console`."""
    console.print(picture(seen, found))


def picture(seen: Observation, found: list[Finding], console: Console | None = None) -> Group:
    """The status; with a `console` no higher than its screen, the worst hosts first."""
    worst = health(found)
    parts: list[RenderableType] = [
        f"egressguard on {escape(seen.settings.router)}: [{COLOURS[worst]}]{WORDS[worst]}[/]",
        *(f"  [{COLOURS[finding.health]}]![/] {escape(finding.text)}" for finding in found),
        _summary(seen)]
    hosts = standings(seen)
    if not hosts:
        return Group(*parts, "No host has tried to send mail directly.")
    fitting = len(hosts) if console is None else _fitting(parts, hosts, console)
    left_out = f"… and {len(hosts) - fitting} more: egressguard hosts"
    return Group(*parts, host_grid(seen, hosts[:fitting]), *([left_out] if fitting < len(hosts) else []))


def _fitting(above: list[RenderableType], hosts: list[Standing], console: Console) -> int:
    """How many hosts have room below `above`, the table's head and a line that says how many have not."""
    room = console.height - len(console.render_lines(Group(*above), pad=False)) - 2
    for count, host in enumerate(hosts):
        room -= len(host.keys)
        if room < 0:
            return count
    return len(hosts)


def watch(config: Path) -> None:
    """The status in place, until Ctrl-C; the configuration is read again each time."""
    from egressguard.cli.watch import watch as draw

    def drawn(console: Console) -> Group:
        seen = observe(read_site(config), config)
        return picture(seen, findings(seen), console)

    draw(drawn, terminal())


def _summary(seen: Observation) -> Grid:
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("mode", f"{mode_of(seen)}, rules {_rules(seen)} (kernel, now)")
    for text in observed_groups(seen):
        grid.add_row("", text)
    if seen.trial_left_s:
        grid.add_row("", f"on trial for another {to_a_tenth(seen.trial_left_s)}, unless confirmed")
    grid.add_row("daemon", _daemon(seen))
    if seen.canary is not None:
        grid.add_row("canary", f"{escape(canary.summary(seen.canary))} "
                               f"({to_a_tenth(seen.age_s(seen.canary.at_s))} ago)")
    grid.add_row("relays", _relays(seen))
    for (name, interface), addresses in _senders_by_name(seen).items():
        grid.add_row("sender", f"{escape(name)} on {escape(interface)}: {', '.join(addresses)}")
    for kind, text in _happenings(seen):
        grid.add_row(kind, text)
    _add_counts(grid, seen)
    return grid


def _add_counts(grid: Grid, seen: Observation) -> None:
    if seen.table is not None:
        t = seen.table.sample.totals
        fate = "that would be refused" if mode_of(seen) == "observe" else "refused"
        grid.add_row("counted", f"{t.attempts} attempts in {t.blocked} packets {fate}; "
                                f"{t.spoofed} spoofed, {t.odd} odd")
    for interface, found in sorted(seen.transit().items()):
        grid.add_row("not inside", escape(_transit_text(interface, found)))
    for family, table in seen.beside.items():
        grid.add_row(BESIDE[family], _beside(table))


def _transit_text(interface: str, found: Transit) -> str:
    first = sorted(found.hosts, key=lambda host: (-found.hosts[host], host))
    more = f" and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    by = f", lately of {', '.join(first[:SHOWN])}{more}" if first else ""
    return f"{found.attempts} attempts came in by {interface}{by}"


def _happenings(seen: Observation) -> list[tuple[str, str]]:
    """What operators have ordered, and what others have done."""
    return [*(("order", text) for text in orders_carried_out(seen)),
            *(("exposed", escape(_exposure(seen, exposure))) for exposure in seen.exposures)]


def _exposure(seen: Observation, exposure: Mapping[str, Any]) -> str:
    by = ", ".join(f"{who['program']} (pid {who['pid']})" for who in exposure["by"]) or "unknown"
    took_s = exposure["end_s"] - exposure["start_s"]
    return (f"{to_a_tenth(seen.age_s(exposure['end_s']))} ago for {took_s:.2f} s: {exposure['wrong']}, "
            f"by {by}")


def _senders_by_name(seen: Observation) -> dict[tuple[str, str], list[str]]:
    """Addresses by name and interface; one that the configuration does not know is named so."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for interface, address, *mac in seen.senders():
        name = seen.settings.sender_name(address) or "NOT CONFIGURED"
        grouped.setdefault((name, interface), []).append(" ".join([address, *mac]))
    return grouped


def _rules(seen: Observation) -> str:
    if seen.table is None:
        return "not loaded"
    return INTACT[seen.table.intact]


def _beside(table: Table | None) -> str:
    if table is None:
        return "not loaded"
    t, rules = table.sample.totals, INTACT[table.intact]
    if table.kind is LAST_LINE:
        return f"rules {rules} on {escape(', '.join(sorted(table.devices)))}; {t.stray} stray packets dropped"
    ports = ", ".join(sorted(port for port, in table.sets["inside_if"])) or "no machine's port"
    return (f"rules {rules} for {escape(ports)}; {t.attempts} attempts in {t.blocked} packets; "
            f"{t.spoofed} spoofed, {t.odd} odd")


def _daemon(seen: Observation) -> str:
    if not seen.daemon_runs:
        return "not running; what is below is read from the kernel, verdicts are the last recorded"
    return f"running, last round {to_a_tenth(seen.age_s(seen.round_at_s))} ago: so old are the verdicts"


def _relays(seen: Observation) -> str:
    ages = {name: seen.age_s(lease.received_s) for name, lease in sorted(seen.reports.items())}
    return ", ".join(f"{escape(name)} reported {to_a_tenth(age)} ago" if age is not None
                     else f"{escape(name)} is silent" for name, age in ages.items()) \
        or "none has reported"
