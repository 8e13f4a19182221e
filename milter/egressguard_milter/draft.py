"""A policy in the making, written as TOML: what an import collects, and what it had to leave out."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_COUNT = 1_000_000
MAX_REMARK_LENGTH = 200


class Remark(NamedTuple):
    """A line of the source that was not carried over, or not as it stood, and why."""

    line: int
    text: str


@dataclass
class Section:
    """The limits of one table: counts by key; None: unlimited; and counts of further windows."""

    values: dict[str, int | None] = field(default_factory=dict)
    also: dict[float, dict[str, int]] = field(default_factory=dict)


@dataclass
class Draft:
    """The sections of a policy by what they are about, in the order of their first mention."""

    base: Section = field(default_factory=Section)
    sender_base: Section = field(default_factory=Section)
    login_base: Section = field(default_factory=Section)
    groups: dict[str, Section] = field(default_factory=dict)
    clients: dict[str, Section] = field(default_factory=dict)
    memberships: dict[str, str] = field(default_factory=dict)
    senders: dict[str, Section] = field(default_factory=dict)
    logins: dict[str, Section] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    fallback: dict[str, int | None] = field(default_factory=dict)
    sender_fallback: dict[str, int | None] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def collect(self, lines: Iterable[str], entry: Callable[["Draft", str, str], None]) -> None:
        """Gives each line `key value` to `entry`, the first of equal keys only; a ValueError is a remark."""
        seen = dict[str, int]()
        for number, line in enumerate(lines, 1):
            key, *value = line.split(None, 1)[:2] or ["#"]
            if key.startswith("#"):
                continue
            try:
                if not value:
                    raise ValueError("has no value")
                first = seen.setdefault(key.lower(), number)
                if first != number:
                    raise ValueError(f"stands in line {first} already, and the first one wins")
                entry(self, key, value[0].strip())
            except ValueError as error:
                self.remark(number, f"{key}: {error}")

    def remark(self, number: int, text: str) -> None:
        """Notes why line `number` was not carried over."""
        self.remarks.append(Remark(number, _comment(text)[:MAX_REMARK_LENGTH]))

    def toml(self, source: str) -> str:
        """The policy as text, with the remarks as comments at its top."""
        lines = [f"# Imported from the {_comment(source)} by egressguard-milter import."]
        lines += [f"# Not carried over, line {r.line}: {_comment(r.text)}" for r in self.remarks]
        if self.checks:
            lines += ["", "[checks]", *(f"{name} = {str(on).lower()}" for name, on in self.checks.items())]
        for name, section in (("limits", self.base), ("sender_limits", self.sender_base),
                              ("login_limits", self.login_base)):
            if section.values or section.also:
                lines += ["", f"[{name}]", *_section(section)]
        for name in dict.fromkeys([*self.groups, *self.memberships.values()]):
            lines += ["", f"[groups.{json.dumps(name)}]", *_section(self.groups.get(name, Section()))]
        rules = {"client": self._all_clients(), "sender": self.senders, "login": self.logins}
        for kind, sections in rules.items():
            for key, section in sections.items():
                lines += ["", f"[[{kind}]]", f"match = [{_string(key)}]"]
                if kind == "client" and key in self.memberships:
                    lines.append(f"group = {_string(self.memberships[key])}")
                lines += _section(section)
        return "\n".join(lines) + "\n"

    def _all_clients(self) -> dict[str, Section]:
        keys = dict.fromkeys([*self.clients, *self.memberships])
        return {key: self.clients.get(key, Section()) for key in keys}


def _section(section: Section) -> list[str]:
    lines = [f"{name} = {count}" for name, count in section.values.items() if count is not None]
    unlimited = [_string(name) for name, count in section.values.items() if count is None]
    if unlimited:
        lines.append(f"unlimited = [{', '.join(unlimited)}]")
    if section.also:
        also = (", ".join([f"window_s = {window_s}", *(f"{n} = {c}" for n, c in counts.items())])
                for window_s, counts in section.also.items())
        lines.append(f"also = [{', '.join(f'{{ {part} }}' for part in also)}]")
    return lines


def _string(text: str) -> str:
    """A basic string of TOML: JSON's escapes are its own, but for DEL and surrogate pairs."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
