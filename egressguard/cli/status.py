"""The status as an operator sees it, in 80 columns, and as a machine reads it.

Every number says how old it is: what comes from the kernel is as old as the reading, a verdict as old as
the round that last judged it, a tier as old as the relay's report.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table as Grid

from egressguard.config import read_site
from egressguard.core import canary
from egressguard.core.attempts import Transit
from egressguard.core.explanation import hold_proposed
from egressguard.core.health import (
    Finding,
    Health,
    Observation,
    Table,
    enforces_everywhere,
    findings,
    health,
    leaks,
    opened_s,
)
from egressguard.core.ruleset import ALL_FAMILIES, SMTP_PORTS
from egressguard.core.standings import Standing, standings
from egressguard.core.tables import LAST_LINE
from egressguard.core.verdict import State, Verdict
from egressguard.observation import observe

COLOURS = {Health.HEALTHY: "green", Health.COMPROMISED: "red", Health.DEGRADED: "yellow",
           Health.NOT_ENFORCING: "bold red"}
STATE_COLOURS = {State.CLEAN: "green", State.SUSPECT: "yellow", State.COMPROMISED: "red"}
WORDS = {Health.HEALTHY: "healthy", Health.COMPROMISED: "a host is compromised",
         Health.DEGRADED: "degraded", Health.NOT_ENFORCING: "NOT ENFORCING"}


INTACT = {True: "intact", False: "EDITED", None: "not compared"}
SHOWN = 3
BESIDE = {"bridge": "bridge", "netdev": "last line"}


def mode_of(seen: Observation) -> str:
    """What the kernel does now: enforce, observe, observe in one family only, opened, nothing; or unknown,
    when its rules are not ours, or let more through than they should.
    """
    if enforces_everywhere(seen):
        return "unknown" if leaks(seen) else "enforce"
    observed = seen.table.sets["observed_family"] if seen.table is not None else frozenset()
    if observed == ALL_FAMILIES:
        return "observe"
    if seen.table is not None and opened_s(seen.table):
        return "opened"
    if observed:
        return "observe in part"
    return "none" if seen.table is None or seen.table.dormant else "unknown"


def status_json(seen: Observation, found: list[Finding]) -> str:
    """Everything that `show` shows, as one JSON object; ages in seconds."""
    return json.dumps({
        "health": WORDS[health(found)], "exit_code": health(found),
        "findings": [{"exit_code": f.health, "text": f.text} for f in found],
        "mode": mode_of(seen), "observed_groups": _observed_groups(seen),
        "trial_left_s": round(seen.trial_left_s, 1) or None,
        "exposures": list(seen.exposures),
        "rules_intact": seen.table.intact if seen.table else None,
        "kernel_age_s": round(seen.now_s - seen.table.sample.at_s, 3) if seen.table else None,
        "totals": asdict(seen.table.sample.totals) if seen.table else None,
        "transit": {name: asdict(found) for name, found in sorted(_transit(seen).items())},
        "beside": {family: _beside_json(table) for family, table in seen.beside.items()},
        "permitted_senders": [list(e) for e in _senders(seen)], "orders": _leases(seen),
        "daemon": {"runs": seen.daemon_runs, "round_age_s": _age(seen, seen.round_at_s)},
        "canary": _canary_json(seen),
        "relays": {name: {"age_s": _age(seen, lease.received_s), "fresh": lease.fresh(seen.now_s)}
                   for name, lease in seen.reports.items()},
        "hosts": {s.host: _host_json(seen, s) for s in standings(seen)},
    }, indent=1)


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
    return Group(*parts, _host_grid(seen, hosts[:fitting]), *([left_out] if fitting < len(hosts) else []))


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


def show_hosts(seen: Observation, hosts: list[Standing], console: Console) -> None:
    """Prints `hosts` as a table."""
    console.print(_host_grid(seen, hosts) if hosts else "No host.")


def hosts_json(seen: Observation, hosts: list[Standing]) -> str:
    """`hosts` as a JSON object by host."""
    return json.dumps({host.host: _host_json(seen, host) for host in hosts}, indent=1)


def _summary(seen: Observation) -> Grid:
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("mode", f"{mode_of(seen)}, rules {_rules(seen)} (kernel, now)")
    for text in _observed_groups(seen):
        grid.add_row("", text)
    if seen.trial_left_s:
        grid.add_row("", f"on trial for another {_seconds(seen.trial_left_s)}, unless confirmed")
    grid.add_row("daemon", _daemon(seen))
    if seen.canary is not None:
        grid.add_row("canary", f"{escape(canary.summary(seen.canary))} "
                               f"({_seconds(_age(seen, seen.canary.at_s))} ago)")
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
    for interface, found in sorted(_transit(seen).items()):
        grid.add_row("not inside", escape(_transit_text(interface, found)))
    for family, table in seen.beside.items():
        grid.add_row(BESIDE[family], _beside(table))


def _transit(seen: Observation) -> Mapping[str, Transit]:
    return seen.table.transit if seen.table is not None else {}


def _transit_text(interface: str, found: Transit) -> str:
    first = sorted(found.hosts, key=lambda host: (-found.hosts[host], host))
    more = f" and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    by = f", lately of {', '.join(first[:SHOWN])}{more}" if first else ""
    return f"{found.attempts} attempts came in by {interface}{by}"


def _happenings(seen: Observation) -> list[tuple[str, str]]:
    """What operators have ordered, and what others have done."""
    return [*(("order", text) for text in _leases(seen)),
            *(("exposed", escape(_exposure(seen, exposure))) for exposure in seen.exposures)]


def _host_grid(seen: Observation, hosts: list[Standing]) -> Grid:
    """Where it is tight the name gives way: a host is its address."""
    grid = Grid(box=None, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("HOST", no_wrap=True)
    grid.add_column("NAME", overflow="fold")
    grid.add_column("ATTEMPTS", justify="right", no_wrap=True)
    counting = any(host.counted for host in hosts)
    if counting:
        grid.add_column("COUNTED", justify="right", no_wrap=True)
    grid.add_column("FAN-OUT", justify="right", no_wrap=True)
    grid.add_column("VERDICT", no_wrap=True)
    grid.add_column("TIER", no_wrap=True)
    grid.add_column("SINCE", justify="right", no_wrap=True)
    names = seen.settings.names()
    for host in hosts:
        since = _seconds(_age(seen, host.verdict.since_s)) if host.verdict else "–"
        grid.add_row("\n".join(host.keys), escape(names.get(host.host, "")), str(host.attempts),
                     *([str(host.counted)] if counting else []), str(host.fan_out),
                     f"[{STATE_COLOURS[host.state]}]{host.state}[/]", host.tier or "unreported", since)
    return grid


def _host_json(seen: Observation, host: Standing) -> dict[str, Any]:
    verdict = host.verdict
    return {
        "name": seen.settings.names().get(host.host), "keys": host.keys,
        "attempts": host.attempts, "counted_only": host.counted, "fan_out": host.fan_out,
        "verdict": host.state,
        "score": round(verdict.score, 2) if verdict else 0.0,
        "verdict_age_s": _verdict_age(seen, verdict),
        "in_this_state_s": _age(seen, verdict.since_s if verdict else None),
        "tier": host.tier, "macs": sorted(host.macs), "forged_by": sorted(host.forged_by),
        "why": verdict.why if verdict else "",
        "cause": verdict.cause if verdict else "unknown",
        "hold_proposed": hold_proposed(verdict, host.forged_by),
    }


def _verdict_age(seen: Observation, verdict: Verdict | None) -> float | None:
    """A running daemon judges every host in every round, also those whose verdict it leaves as it is."""
    if seen.daemon_runs:
        return _age(seen, seen.round_at_s)
    return _age(seen, verdict.at_s if verdict else None)


def _observed_groups(seen: Observation) -> list[str]:
    """Groups that are only observed while the site enforces."""
    if mode_of(seen) != "enforce" or seen.table is None:
        return []
    networks = [network for name in ("group_observe4", "group_observe6")
                for port, network in sorted(seen.table.sets[name]) if (port,) in SMTP_PORTS]
    return [f"but only observe {', '.join(networks)}"] if networks else []


def _leases(seen: Observation) -> list[str]:
    """The exceptions and quarantines in the kernel, as it has them."""
    leases = seen.table.leases if seen.table is not None else {}
    return [f"{name.rstrip('46').replace('_', ' ')} {' '.join(element)} for {_seconds(left_s)} more"
            for name, elements in sorted(leases.items()) for element, left_s in sorted(elements.items())]


def _exposure(seen: Observation, exposure: Mapping[str, Any]) -> str:
    by = ", ".join(f"{who['program']} (pid {who['pid']})" for who in exposure["by"]) or "unknown"
    took_s = exposure["end_s"] - exposure["start_s"]
    return (f"{_seconds(_age(seen, exposure['end_s']))} ago for {took_s:.2f} s: {exposure['wrong']}, "
            f"by {by}")


def _senders(seen: Observation) -> list[tuple[str, ...]]:
    names = ("allow4", "allow6", "allow_mac4", "allow_mac6")
    return sorted(element for table in seen.tables() for name in names
                  for element in table.sets.get(name, ()))


def _senders_by_name(seen: Observation) -> dict[tuple[str, str], list[str]]:
    """Addresses by name and interface; one that the configuration does not know is named so."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for interface, address, *mac in _senders(seen):
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


def _beside_json(table: Table | None) -> dict[str, Any] | None:
    if table is None:
        return None
    return {"rules_intact": table.intact, "totals": asdict(table.sample.totals),
            "ports": sorted(port for port, in table.sets.get("inside_if", ())),
            "devices": sorted(table.devices)}


def _canary_json(seen: Observation) -> dict[str, Any] | None:
    if seen.canary is None:
        return None
    return {"age_s": _age(seen, seen.canary.at_s), "flights": [asdict(f) for f in seen.canary.flights]}


def _daemon(seen: Observation) -> str:
    if not seen.daemon_runs:
        return "not running; what is below is read from the kernel, verdicts are the last recorded"
    return f"running, last round {_seconds(_age(seen, seen.round_at_s))} ago: so old are the verdicts"


def _relays(seen: Observation) -> str:
    ages = {name: _age(seen, lease.received_s) for name, lease in sorted(seen.reports.items())}
    return ", ".join(f"{escape(name)} reported {_seconds(age)} ago" if age is not None
                     else f"{escape(name)} is silent" for name, age in ages.items()) \
        or "none has reported"


def _age(seen: Observation, at_s: float | None) -> float | None:
    return None if at_s is None or at_s == float("-inf") else round(max(0.0, seen.now_s - at_s), 2)


def _seconds(age_s: float | None) -> str:
    if age_s is None:
        return "unknown"
    if age_s < 100:
        return f"{age_s:.1f} s"
    return f"{age_s / 60:.0f} min" if age_s < 7200 else f"{age_s / 3600:.0f} h"
