"""The status as a machine reads it: everything that an operator sees, each number with its age."""

import json
from dataclasses import asdict
from typing import Any

from egressguard.cli import hosts
from egressguard.core.health import WORDS, Finding, health
from egressguard.core.mode import mode_of, observed_groups, orders_carried_out
from egressguard.core.observation import Observation, Table
from egressguard.core.standings import standings


def status_json(seen: Observation, found: list[Finding]) -> str:
    """Everything that `show` shows, as one JSON object; ages in seconds."""
    return json.dumps({
        "health": WORDS[health(found)], "exit_code": health(found),
        "findings": [{"exit_code": f.health, "text": f.text} for f in found],
        "mode": mode_of(seen), "observed_groups": observed_groups(seen),
        "trial_left_s": round(seen.trial_left_s, 1) or None,
        "exposures": list(seen.exposures),
        "rules_intact": seen.table.intact if seen.table else None,
        "kernel_age_s": round(seen.now_s - seen.table.sample.at_s, 3) if seen.table else None,
        "totals": asdict(seen.table.sample.totals) if seen.table else None,
        "transit": {name: asdict(found) for name, found in sorted(seen.transit().items())},
        "beside": {family: _beside(table) for family, table in seen.beside.items()},
        "permitted_senders": [list(e) for e in seen.senders()], "orders": orders_carried_out(seen),
        "daemon": {"runs": seen.daemon_runs, "round_age_s": seen.age_s(seen.round_at_s)},
        "canary": _canary(seen),
        "relays": {name: {"age_s": seen.age_s(lease.received_s), "fresh": lease.fresh(seen.now_s)}
                   for name, lease in seen.reports.items()},
        "hosts": hosts.as_json(seen, standings(seen)),
    }, indent=1)


def _beside(table: Table | None) -> dict[str, Any] | None:
    if table is None:
        return None
    return {"rules_intact": table.intact, "totals": asdict(table.sample.totals),
            "ports": sorted(port for port, in table.sets.get("inside_if", ())),
            "devices": sorted(table.devices)}


def _canary(seen: Observation) -> dict[str, Any] | None:
    if seen.canary is None:
        return None
    return {"age_s": seen.age_s(seen.canary.at_s), "flights": [asdict(f) for f in seen.canary.flights]}
