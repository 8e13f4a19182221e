"""Figures of the promises: tests record them, and a run with --write-promises writes docs/promises.md.

The file is never edited by hand: each row says what was measured, what is required, and how to measure again.
"""

import os
import platform
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


@dataclass(frozen=True)
class Figure:
    """One measured number beside its bound; `test` is the node id that measures it again."""

    number: int
    text: str
    measured: str
    required: str
    size: str
    test: str


_figures: dict[tuple[int, str], Figure] = {}


def promise(number: int, text: str, measured: object, required: object, size: str) -> None:
    """Records a figure of promise `number`; the test asserts it, this only tells."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)")
    _figures[number, text] = Figure(number, text, str(measured), str(required), size, test)


def write(path: Path, command: str) -> None:
    """Writes every figure of this run; promises without one say so."""
    path.write_text("\n".join([*_head(command), *(line for number in PROMISES for line in _section(number))]) + "\n")


def _head(command: str) -> list[str]:
    nft = subprocess.run(["nft", "--version"], text=True, capture_output=True, check=False).stdout.split(" (")[0]
    return ["# Promises and their figures", "",
            "Written by the test run, never by hand:", "", "```sh", command, "```", "",
            f"Linux {platform.release().split('-')[0]}, {nft.strip()}, Python {platform.python_version()}, "
            f"{os.cpu_count()} processors, {datetime.now(UTC):%Y-%m-%d}. "
            "A single row is measured again with `script/test` and its test's name."]


def _section(number: int) -> list[str]:
    rows = [figure for figure in _figures.values() if figure.number == number]
    head = ["", f"## {number}. {PROMISES[number]}", ""]
    if not rows:
        return [*head, "No figure in this run: it is tested by yes and no."]
    return [*head, "| what | measured | required | size | test |", "| --- | --- | --- | --- | --- |",
            *(f"| {f.text} | {f.measured} | {f.required} | {f.size} | `{f.test}` |" for f in rows)]
