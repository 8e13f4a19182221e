"""A part of a configuration: lines, and the file that they belong to."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """`lines` of `where`: a file, or `command line` or `then` for what is to be run."""

    where: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as they stand in the file."""
        return "".join(f"{line}\n" for line in self.lines)


def part(where: str, *lines: str) -> Part:
    """A part with these lines."""
    return Part(where, lines)


def text(parts: Iterable[Part]) -> str:
    """All parts, each under its `==> file <==` as `head` prints several files."""
    return "\n".join(f"==> {p.where} <==\n{p.text}" for p in parts)
