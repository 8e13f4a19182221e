"""A trace is judged as the router would have judged it; what is wrong in it is named by line and column."""

import contextlib
import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from egressguard.cli import cli
from egressguard.core import attempts
from egressguard.core.attempts import Baseline, Sample
from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import Host
from egressguard.core.replay import Event, Recount, replay
from egressguard.core.settings import Detection
from egressguard.core.verdict import State, Transition

HEAD = "time,source,destination,port,outcome\n"
SAMPLE = Path(__file__).parents[2] / "docs/examples/trace.csv"


def run(tmp_path: Path, text: str, *options: str) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    done = CliRunner().invoke(cli, ["replay", str(path), "--config", str(tmp_path / "none"), *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_the_sample_has_a_spambot_and_two_that_are_none() -> None:
    done = CliRunner().invoke(cli, ["replay", str(SAMPLE), "--config", "/nonexistent", "--json"])
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(s["host"], s["after"]) for s in steps] == [
        ("198.51.100.12", "suspect"), ("198.51.100.12", "compromised")]


@pytest.mark.parametrize(("row", "complaint"), [
    ("x,198.51.100.1,203.0.113.1,25,blocked", "line 2, column time: 'x' is not right"),
    ("nan,198.51.100.1,203.0.113.1,25,blocked", "column time"),
    ("1,web1,203.0.113.1,25,blocked", "column source: 'web1' is not right: give an address"),
    ("1,198.51.100.1,203.0.113.256,25,blocked", "column destination"),
    ("1,198.51.100.1,203.0.113.1,0,blocked", "column port: '0' is not right: 1 to 65535"),
    ("1,198.51.100.1,203.0.113.1,25,dropped", "column outcome: 'dropped' is not right: say one of blocked"),
    ("1,198.51.100.1", "line 2: has 2 columns, not 5"),
    ("2,198.51.100.1,203.0.113.1,25,blocked\n1,198.51.100.1,203.0.113.1,25,blocked", "line 3, column time"),
    ('1,"198.51.100.1', "line 2"),
    ("1," + "a" * 2000, "line 2: is longer than 999 characters"),
])
def test_what_is_wrong_is_named_by_line_and_column(tmp_path: Path, row: str, complaint: str) -> None:
    with pytest.raises(EgressguardError) as raised:
        run(tmp_path, HEAD + row + "\n")
    assert complaint in str(raised.value)


def test_handshakes_are_evidence_that_no_neighbour_can_forge_as_they_are_to_the_router(tmp_path: Path) -> None:
    def told(outcome: str) -> list[str]:
        rows = "".join(f"{n},198.51.100.1,203.0.113.{n},25,{outcome}\n" for n in range(1, 20))
        steps = [json.loads(line) for line in run(tmp_path, HEAD + rows, "--json").splitlines()]
        return [step.get("after") or f"hold {step['hold_proposed']}" for step in steps]
    assert told("blocked") == ["suspect", "compromised"]
    assert told("handshake") == ["suspect", "compromised", "hold True"]
    rows = "".join(f"{n},198.51.100.1,203.0.113.{n},25,handshake\n" for n in range(1, 20))
    assert "198.51.100.1  hold proposed  (" in run(tmp_path, HEAD + rows)


def test_a_replayed_handshake_weighs_what_the_routers_listener_makes_of_it() -> None:
    """Attempts with proofs, as egressguard/proofs.py joins them."""
    found = Recount().attempts([Event(1.0, Host("198.51.100.1"), f"203.0.113.{n}", verified=n > 2) for n in range(6)], 1.0)
    live = attempts.added(
        attempts.Attempts(6, tuple(f"203.0.113.{n}" for n in range(6))),
        attempts.Attempts(0, verified=3, proven=("203.0.113.3", "203.0.113.4", "203.0.113.5")))
    assert found == {Host("198.51.100.1"): live}


def test_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EgressguardError, match="line 1: the columns must be time,source"):
        run(tmp_path, "a,b\n")


def test_what_passed_and_other_ports_are_no_attempts(tmp_path: Path) -> None:
    rows = "".join(f"{n},198.51.100.1,203.0.113.{n},{port},{outcome}\n"
                   for n in range(1, 30) for port, outcome in ((587, "blocked"), (25, "passed")))
    assert run(tmp_path, HEAD + rows) == ""


def test_a_recount_is_what_the_counters_would_have_said() -> None:
    """The same random attempts, as events and as counters that are read each second."""
    rng = random.Random(5)
    recount, baseline = Recount(), Baseline()
    counts: dict[Host, int] = {}
    pairs: dict[tuple[Host, str], int] = {}
    for now_s in range(1, 400):
        found = [Event(now_s, Host(f"198.51.100.{rng.randrange(3)}"), f"203.0.113.{rng.randrange(20)}")
                 for _ in range(rng.randrange(4))]
        for event in found:
            counts[event.host] = counts.get(event.host, 0) + 1
            pairs[event.host, event.destination] = pairs.get((event.host, event.destination), 0) + 1
        sample = Sample(now_s, inventory=dict(counts), destinations=dict(pairs))
        expected, baseline = attempts.between(baseline, sample), attempts.advance(baseline, sample)
        got = recount.attempts(found, float(now_s))
        assert got.keys() == expected.keys()
        for host, told in expected.items():
            assert got[host].count == told.count
            assert set(got[host].new_destinations) == set(told.new_destinations)
            assert set(got[host].retried) == set(told.retried)


def test_memory_does_not_grow_with_the_trace() -> None:
    recount = Recount()
    for n in range(100_000):
        recount.attempts([Event(n * 10.0, Host("198.51.100.1"), f"d{n}")], n * 10.0)
    assert sum(map(len, recount._seen.values())) < 1000


def test_a_slow_bot_is_found_in_a_trace_of_days() -> None:
    events = (Event(n * 400.0, Host("198.51.100.1"), f"203.0.113.{n}") for n in range(200))
    steps = [s for s in replay(events, Detection(), 0.25) if isinstance(s, Transition)]
    assert [s.after for s in steps][:2] == [State.SUSPECT, State.COMPROMISED]


def test_a_long_trace_shows_on_a_terminal_how_far_it_is_and_leaves_the_output_alone(tmp_path: Path) -> None:
    rows = "".join(f"{n},198.51.100.{n % 9 + 1},203.0.113.{n % 200 + 1},25,blocked\n" for n in range(20_000))
    size_kb = f"{(tmp_path / 'trace.csv').write_text(HEAD + rows) / 1000:.1f}"
    master, slave = pty.openpty()
    argv = [str(Path(sys.executable).with_name("egressguard")), "replay", "trace.csv", "--config", "none", "--json"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"},
                          text=True) as running:
        os.close(slave)
        shown = _read(master)
        assert running.stdout is not None
        steps = [json.loads(line) for line in running.stdout]
    assert running.returncode == 0
    assert "reading trace.csv" in shown
    assert f"{size_kb}/{size_kb} kB" in shown
    assert steps


def _read(terminal: int) -> str:
    """All that comes out of it until its other end is closed, which Linux tells with EIO."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()
