"""What is wrong with an MTA's live configuration: every way in which limits are configured and not in force.

Nothing here changes anything; the MTA's own words are read, as it would read them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard_milter.endpoint import Endpoint, parse_endpoint

SLOW_S = 30.0  # a stalled milter holds a client for this long at most; the MTAs' defaults are 30 to 300
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
TIME = re.compile(r"(\d+)\s*([smhdwSMHDW]?)")
UNLIMITED = "a milter that is down, killed or confused then means unlimited mail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, and what would be right."""

    file: Path
    parameter: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.parameter}: {self.text}"


def endpoint_of(host: str, port: str) -> Endpoint | None:
    """The endpoint of a host and a port that an MTA names; None for what is no address and number."""
    try:
        return parse_endpoint(f"inet:{port}@{host}")
    except ValueError:
        return None


def seconds(text: str, default: str = "s") -> float | None:
    """How long `5m` or `1m30s` is; a bare number has the unit `default`. None for what is no time."""
    parts = TIME.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        return None
    return sum(float(number) * UNITS[(unit or default).lower()] for number, unit in parts)


def timeout_texts(values: Mapping[str, str], right: str) -> Iterator[str]:
    """What is wrong with an MTA's timeouts for a milter, each given by its name."""
    shown = {name: f"{name} is {value or 'empty'}" for name, value in values.items()}
    read = {name: seconds(value) for name, value in values.items()}
    if none := [shown[name] for name, value in read.items() if value is None]:
        yield f"{names(none)}: no time; write {right}"
    if long := [shown[name] for name, value in read.items() if value is not None and value >= SLOW_S]:
        yield f"a stalled milter holds every client: {names(long)}; write {right}"


def names(entries: Iterable[str]) -> str:
    """Several words as they may stand in a sentence."""
    return ", ".join(entries) or "nothing"
