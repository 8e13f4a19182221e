"""The milters alone: a load generator in C speaks the protocol to both, in turns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.relay.programs import Program, compile_c
from lab.namespaces import LabError, Namespace

CLIENTS_PER_RUN = 1000


@dataclass(frozen=True)
class Row:
    """One milter at one number of connections: medians over the rounds."""

    milter: str
    connections: int
    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float  # of the milter's own for each transaction, whoever else wants the processor
    resident_mb: float
    ratio: float


class Load:
    """The load generator; no two runs share a client."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self._namespace = namespace
        self._path = compile_c("milter_load", folder)
        self._first = 0

    def run(self, port: int, connections: int, seconds: float) -> dict[str, float]:
        """What one run measured. Raises LabError if a message was refused."""
        words = ["127.0.0.1", str(port), str(connections), str(seconds), str(self._first)]
        self._first += connections
        figures: dict[str, float] = json.loads(self._namespace.run([self._path, *words]).stdout)
        if figures["refused"]:
            raise LabError(f"{figures['refused']} messages were refused: this is not the speed of accepting")
        return figures


def measure(load: Load, programs: Sequence[Program], connections: int, *, seconds: float, rounds: int
            ) -> list[Row]:
    """All milters in turns, so that what disturbs the machine disturbs each; the first one is the measure."""
    runs: dict[str, list[dict[str, float]]] = {program.name: [] for program in programs}
    for _ in range(rounds):
        for program in programs:
            runs[program.name].append(_run(load, program, connections, seconds))
    base = [run["per_second"] for run in runs[programs[0].name]]
    return [_row(program, connections, found, median(run["per_second"] / first
                                                     for run, first in zip(found, base, strict=True)))
            for program, found in zip(programs, runs.values(), strict=True)]


def _run(load: Load, program: Program, connections: int, seconds: float) -> dict[str, float]:
    before = program.cpu_s
    figures = load.run(program.port, connections, seconds)
    # The warming-up, a tenth, is in the processor's time but not in the transactions.
    share = figures["seconds"] / (figures["seconds"] + seconds / 10)
    return figures | {"per_second": figures["transactions"] / figures["seconds"],
                      "cpu_us": (program.cpu_s - before) * share / figures["transactions"] * 1e6}


def bytes_per_client(load: Load, program: Program, clients: int) -> float:
    """How much `clients` new clients cost, with a few messages each."""
    before = program.resident_kb
    for _ in range(clients // CLIENTS_PER_RUN):
        load.run(program.port, CLIENTS_PER_RUN, 0.2)
    return (program.resident_kb - before) * 1024 / clients


def _row(program: Program, connections: int, runs: list[dict[str, float]], ratio: float) -> Row:
    def middle(key: str) -> float:
        return median(run[key] for run in runs)
    return Row(program.name, connections, middle("per_second"), middle("p50_us"), middle("p99_us"),
               middle("cpu_us"), program.resident_kb / 1024, ratio)
