"""What is wrong with an MTA's live configuration: every way in which limits are configured and not in force.

Nothing here changes anything; the MTA's own words are read, as it would read them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from egressguard_milter.endpoint import Endpoint, parse_endpoint

SLOW_S = 30.0  # a stalled milter holds a client for this long at most; the MTAs' defaults are 30 to 300
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


def seconds(text: str, default: str = "s") -> float:
    """How long `5m` is; a bare number has the unit `default`."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, default)
    return float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]


def names(entries: Iterable[str]) -> str:
    """Several words as they may stand in a sentence."""
    return ", ".join(entries) or "nothing"
