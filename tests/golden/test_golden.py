"""What people see, compared with files beside this one; `pytest --write-golden` writes them anew.

Read the difference before committing it: it is what operators will see.
"""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from egressguard.cli.status import show
from egressguard.cli.status_json import status_json
from egressguard.config import read_site
from egressguard.core.attempts import Sample, Totals
from egressguard.core.documents import Client, Origin, Report
from egressguard.core.health import findings
from egressguard.core.hosts import Host
from egressguard.core.leases import Lease
from egressguard.core.observation import Observation, Table
from egressguard.core.policy import desired
from egressguard.core.ruleset import VERSION_CHAIN
from egressguard.core.verdict import State, Tier, Verdict

FOLDER = Path(__file__).parent
EXAMPLE = FOLDER.parent.parent / "docs/examples/egressguard.toml"
WEB2, WEB2_IPV6, STRANGER = Host("198.51.100.12"), Host("2001:db8:0:12::/64"), Host("198.51.100.77")


def observation() -> Observation:
    settings = read_site(EXAMPLE).settings
    destinations = {(WEB2, f"203.0.113.{n}"): 1 for n in range(31)} | {(STRANGER, "203.0.113.1"): 7}
    sample = Sample(999.99, Totals(blocked=41, attempts=38, spoofed=2, odd=1),
                    {WEB2: 31, Host("198.51.100.11"): 0}, {STRANGER: 7}, destinations)
    table = Table(frozenset({VERSION_CHAIN}), {"egress_forward": "forward -10 1"}, False, True, (), desired(settings), sample)
    clients = {WEB2: Client(Tier.TIGHTENED, 4, 4, 56), WEB2_IPV6: Client(Tier.TIGHTENED, 4, 0, 0)}
    verdicts = {WEB2: Verdict(WEB2, State.COMPROMISED, 13.8, 940.0, 980.0, 31, "31 attempts, 31 of them to new destinations")}
    return Observation(1000.0, settings, table, frozenset({"dmz", "web", "wan"}), True, 999.9, verdicts,
                       {"relay1": Lease(Report(Origin("relay1", 1, 7), 30.0, clients), 998.8)})


CASES = {
    "status-compromised": observation(),
    "status-nothing-happened": replace(
        observation(), verdicts={}, reports={},
        table=replace(observation().table, sample=Sample(999.99))),  # type: ignore[type-var]
    "status-without-daemon": replace(observation(), daemon_runs=False, now_s=9000.0),
    "status-no-table": replace(observation(), table=None, daemon_runs=False, round_at_s=None),
    "status-observe": replace(observation(), table=replace(
        observation().table, sets=desired(replace(observation().settings, mode="observe")))),  # type: ignore[type-var]
}


def compare(name: str, text: str, write: bool) -> None:
    path = FOLDER / name
    if write:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("name", CASES)
def test_status_in_80_columns(name: str, write_golden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    show(CASES[name], findings(CASES[name]), Console(file=out, width=80, highlight=False, emoji=False))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    compare(f"{name}.txt", "".join(f"{line.rstrip()}\n" for line in lines), write_golden)


def test_status_as_json(write_golden: bool) -> None:
    seen = CASES["status-compromised"]
    text = status_json(seen, findings(seen))
    assert json.loads(text)["exit_code"] == 1
    compare("status-compromised.json", text + "\n", write_golden)
