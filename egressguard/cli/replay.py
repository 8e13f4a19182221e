"""`replay`: a trace through the judge, as the router would have judged it; the file is read line by line."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click

from egressguard.cli.progress import reading
from egressguard.config import DEFAULT_PATH, read_site
from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import canonical_address, host_of
from egressguard.core.replay import Event, Proposed, replay
from egressguard.core.settings import SMTP_PORT, Detection

COLUMNS = ("time", "source", "destination", "port", "outcome")
OUTCOMES = {"blocked": False, "handshake": True, "passed": None}
LONGEST_LINE = 1000
PERIOD_S = 0.25


@click.command("replay")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH, is_eager=True,
              show_default=True, help="Whose [detection] to use; the defaults when there is no such file.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output, an object for each line.")
def replay_(trace: Path, config: Path, as_json: bool) -> None:
    """Print how TRACE would have been judged.

    How verdicts would have changed, had the router seen the attempts in it.

    TRACE is CSV with the columns time (seconds), source, destination, port, outcome (blocked; handshake, with
    a sinkhole; or passed, which is none), in the order of time. Only port 25 counts. Reads no kernel.
    """
    detection = read_site(config).settings.detection if config.exists() else Detection()
    for step in replay(_events(trace), detection, PERIOD_S):
        if as_json:
            held = {"hold_proposed": True} if isinstance(step, Proposed) else {}
            click.echo(json.dumps(asdict(step) | held))
        elif isinstance(step, Proposed):
            click.echo(f"{step.at_s:>12.2f}  {step.host}  hold proposed  ({step.firm:.1f} of its score no "
                       "neighbour can have forged)")
        else:
            click.echo(f"{step.at_s:>12.2f}  {step.host}  {step.before} → {step.after}  ({step.why})")


def _events(path: Path) -> Iterator[Event]:
    try:
        with reading(path) as file:
            yield from _rows(path, csv.reader(_lines(path, file), strict=True))
    except (OSError, UnicodeDecodeError) as error:
        raise EgressguardError(f"{path}: cannot be read: {error}") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines; one without an end must not fill the memory."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise EgressguardError(f"{path}: line {number}: is longer than {LONGEST_LINE - 1} characters")
        yield line


def _rows(path: Path, rows: Iterator[list[str]]) -> Iterator[Event]:
    last_s = float("-inf")
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            if number == 1:
                if tuple(row) != COLUMNS:
                    raise EgressguardError(f"{path}: line 1: the columns must be {','.join(COLUMNS)}")
                continue
            event = _event(path, number, row, last_s)
            if event is not None:
                last_s = event.at_s
                yield event
    except csv.Error as error:
        raise EgressguardError(f"{path}: line {number + 1}: {error}") from error


def _event(path: Path, number: int, row: list[str], last_s: float) -> Event | None:
    """The attempt in `row`; None when it is none. Raises EgressguardError with line and column."""
    if len(row) != len(COLUMNS):
        raise EgressguardError(f"{path}: line {number}: has {len(row)} columns, not {len(COLUMNS)}")
    values: list[Any] = []
    for column, text in zip(COLUMNS, row, strict=True):
        try:
            values.append(READERS[column](text))
        except (ValueError, KeyError):
            raise EgressguardError(f"{path}: line {number}, column {column}: {text[:60]!r} is not right: "
                                   f"{RIGHT[column]}") from None
    at_s, source, destination, port, verified = values
    if at_s < last_s:
        raise EgressguardError(f"{path}: line {number}, column time: {at_s} lies before the line above")
    if verified is None or port != SMTP_PORT:
        return None
    return Event(at_s, host_of(source), str(destination), verified)


def _time(text: str) -> float:
    at_s = float(text)
    if not 0 <= at_s < 1e12:
        raise ValueError
    return at_s


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError
    return int(text)


READERS: dict[str, Callable[[str], Any]] = {
    "time": _time, "source": canonical_address, "destination": canonical_address, "port": _port,
    "outcome": OUTCOMES.__getitem__,
}
RIGHT = {"time": "seconds, 0 or more", "source": "give an address such as 198.51.100.12",
         "destination": "give an address such as 203.0.113.7", "port": "1 to 65535",
         "outcome": f"say one of {', '.join(OUTCOMES)}"}
