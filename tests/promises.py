"""Figures of the promises: tests record them, and a run with --write-promises writes them into docs/promises.md.

The file is never edited by hand: each row says what was measured and when, what is required, and how to measure again. A run
replaces the rows of the files that it has run. Others stay, if they are of the same machine and their tests still exist.
"""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PROMISES = {
    1: "Killing the controller at any instant, stopping, upgrading or restarting it never opens port 25 and never "
       "loses a counted attempt.",
    2: "Reloading rules or changing the allow-list loses no packet of a permitted sender, no counter, no timeout.",
    3: "Every TCP packet shape towards an SMTP port is judged the same, IPv4 and IPv6, fragments and extension "
       "headers included.",
    4: "A full set neither opens the policy nor blinds it for inventory hosts, and `status` goes red.",
    5: "Another tool's `flush ruleset` is prevented or repaired, and the exposure is recorded with who did it and for "
       "how long.",
    6: "`status` reads the kernel, says how old each number is, and never says \"enforcing\" when it is not.",
    7: "A stale, forged, replayed or lost signal changes nothing for the worse: base limits apply.",
    8: "No fault of the milter loses mail or turns a temporary failure into a permanent one.",
    9: "Limits are exact under concurrency and survive crashes.",
    10: "Quarantine can never hit a sender, is capped, and expires by itself.",
    11: "Bad configuration changes nothing; the message names file, key and what would be right.",
    12: "Everything an attacker can write (addresses, HELO, sender, PTR) is bounded, escaped and never trusted.",
}


COLUMNS = ("what", "measured", "required", "size", "on", "test")
SECTION = re.compile(r"^## (\d+)\.")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """One measured number beside its bound, and the day; `test` is the node id that measures it again."""

    number: int
    text: str
    measured: str
    required: str
    size: str
    day: str
    test: str

    @property
    def row(self) -> str:
        """A line of the table."""
        return f"| {self.text} | {self.measured} | {self.required} | {self.size} | {self.day} | `{self.test}` |"

    @property
    def file(self) -> str:
        """The test's file."""
        return self.test.partition("::")[0]


_figures: dict[tuple[int, str], Figure] = {}


def promise(number: int, text: str, measured: object, required: object, size: str) -> None:
    """Records a figure of promise `number`; the test asserts it, this only tells."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
    _figures[number, text] = Figure(number, text, str(measured), str(required), size, f"{datetime.now(UTC):%Y-%m-%d}", test)


def write(path: Path, root: Path = ROOT) -> None:
    """Writes every figure of this run, and those of earlier ones; promises without any say so."""
    before = path.read_text("utf-8") if path.exists() else ""
    head = _head()
    again = {figure.file for figure in _figures.values()}
    kept = [f for f in read(before) if f.file not in again and _exists(f.test, root)] if head[-1] in before else []
    figures = [*_figures.values(), *kept]
    path.write_text("\n".join([*head, *(line for number in PROMISES for line in _section(number, figures))]) + "\n", "utf-8")


def read(text: str) -> list[Figure]:
    """The figures that the file holds."""
    found, number = [], 0
    for line in text.splitlines():
        if begun := SECTION.match(line):
            number = int(begun[1])
        cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        if line.startswith("| ") and len(cells) == len(COLUMNS) and cells[-1].startswith("`"):
            what, measured, required, size, day, test = cells
            found.append(Figure(number, what, measured, required, size, day, test.strip("`")))
    return found


def _exists(test: str, root: Path) -> bool:
    file, _, name = test.partition("::")
    return (root / file).exists() and f"def {name.partition('[')[0]}(" in (root / file).read_text("utf-8")


def _head() -> list[str]:
    nft = subprocess.run(["nft", "--version"], text=True, capture_output=True, check=False).stdout.split(" (")[0]
    return ["# Promises and their figures", "",
            "Written by test runs, never by hand: `script/test --full --write-promises FILE …` measures what stands in these "
            "files again. A single row is measured again with `script/test` and its test's name.", "",
            f"Linux {platform.release().split('-')[0]}, {nft.strip()}, Python {platform.python_version()}, "
            f"{os.cpu_count()} processors."]


def _section(number: int, figures: list[Figure]) -> list[str]:
    rows = [figure for figure in figures if figure.number == number]
    head = ["", f"## {number}. {PROMISES[number]}", ""]
    if not rows:
        return [*head, "No figure: it is tested by yes and no."]
    order = sorted(rows, key=lambda figure: figure.file)
    return [*head, f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}", *(figure.row for figure in order)]
