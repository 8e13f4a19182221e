"""One thing that the doctor found, and how bad it is."""

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """The exit codes of `egressguard doctor`."""

    NOTE = 0
    WEAKENS = 2
    OFF_PATH = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found; `name` is its heading in docs/doctor.md."""

    severity: Severity
    name: str
    found: str
    why: str
    right: str


def off(name: str, found: str, why: str, right: str) -> Finding:
    """Some packets do not meet the rules."""
    return Finding(Severity.OFF_PATH, name, found, why, right)


def weak(name: str, found: str, why: str, right: str) -> Finding:
    """Something weakens them."""
    return Finding(Severity.WEAKENS, name, found, why, right)


def note(name: str, found: str, why: str, right: str) -> Finding:
    """Worth knowing, and no harm."""
    return Finding(Severity.NOTE, name, found, why, right)
