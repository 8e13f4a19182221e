"""The hosts of `status` and `hosts`: as a table in 80 columns, and for machines."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from egressguard.core.ages import to_a_tenth
from egressguard.core.explanation import hold_proposed
from egressguard.core.observation import Observation
from egressguard.core.standings import Standing
from egressguard.core.verdict import State, Verdict

COLOURS = {State.CLEAN: "green", State.SUSPECT: "yellow", State.COMPROMISED: "red"}


def show_hosts(seen: Observation, hosts: list[Standing], console: Console) -> None:
    """Prints `hosts` as a table."""
    console.print(host_grid(seen, hosts) if hosts else "No host.")


def hosts_json(seen: Observation, hosts: list[Standing]) -> str:
    """`hosts` as a JSON object by host."""
    return json.dumps(as_json(seen, hosts), indent=1)


def as_json(seen: Observation, hosts: list[Standing]) -> dict[str, Any]:
    """`hosts` for machines."""
    names = seen.settings.names()  # once: there may be a hundred thousand
    return {host.host: {"name": names.get(host.host), **_host_json(seen, host)} for host in hosts}


def host_grid(seen: Observation, hosts: list[Standing]) -> Grid:
    """`hosts` as a table. Where it is tight the name gives way: a host is its address."""
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
        since = to_a_tenth(seen.age_s(host.verdict.since_s)) if host.verdict else "–"
        grid.add_row("\n".join(host.keys), escape(names.get(host.host, "")), str(host.attempts),
                     *([str(host.counted)] if counting else []), str(host.fan_out),
                     f"[{COLOURS[host.state]}]{host.state}[/]", host.tier or "unreported", since)
    return grid


def _host_json(seen: Observation, host: Standing) -> dict[str, Any]:
    """One host for machines; ages in seconds."""
    verdict = host.verdict
    return {
        "keys": host.keys,
        "attempts": host.attempts, "counted_only": host.counted, "fan_out": host.fan_out,
        "verdict": host.state,
        "score": round(verdict.score, 2) if verdict else 0.0,
        "verdict_age_s": _verdict_age(seen, verdict),
        "in_this_state_s": seen.age_s(verdict.since_s if verdict else None),
        "tier": host.tier, "macs": sorted(host.macs), "forged_by": sorted(host.forged_by),
        "why": verdict.why if verdict else "",
        "cause": verdict.cause if verdict else "unknown",
        "hold_proposed": hold_proposed(verdict, host.forged_by),
    }


def _verdict_age(seen: Observation, verdict: Verdict | None) -> float | None:
    """A running daemon judges every host in every round, also those whose verdict it leaves as it is."""
    if seen.daemon_runs:
        return seen.age_s(seen.round_at_s)
    return seen.age_s(verdict.at_s if verdict else None)
