"""A section 5 page from a configuration's types and from the comments of its sample file.

The types say which keys there are, of what kind and with which default; the sample says what they mean. A key
that the sample does not describe is an error: there is no page without it.
"""

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from manpages.roff import example, heading, inline, item, page, paragraph, subheading, title

KEY = re.compile(r"^(?:# ?)?([a-z_0-9]+) = (.*)$")
TABLE = re.compile(r"^(?:# )?(\[\[?([a-z_.]+)\]\]?)(?:\s+#\s*(.*))?$")


class Entry(NamedTuple):
    """A table or a key of a sample file, and what stands beside it."""

    table: str
    key: str
    example: str
    text: str


def file_page(path: str, summary: str, kind: type, sample: Path, version: str, see_also: str) -> str:
    """The page of the configuration file `path`, which becomes a `kind`."""
    name, text = Path(path).name, sample.read_text("utf-8")
    undescribed = set(keys(kind)) - set(re.findall(r"[a-z_0-9]+", text))
    if undescribed:
        raise SystemExit(f"manpages: {sample.name} does not describe {', '.join(sorted(undescribed))}: "
                         "add a line for each")
    return page([
        title(name, 5, version), heading("NAME"), f"{inline(name)} \\- {inline(summary)}\n",
        heading("SYNOPSIS"), paragraph(f"`{path}`"), heading("DESCRIPTION"), paragraph(_introduction(text)),
        heading("KEYS"), *_body(_entries(text), kind), heading("EXAMPLE"), example(text.splitlines()),
        heading("SEE ALSO"), paragraph(see_also)])


def keys(kind: Any) -> Iterator[str]:
    """Every key below dataclass `kind`."""
    for field in dataclasses.fields(kind):
        yield field.name
        for inner in _parts(typing.get_type_hints(kind)[field.name]):
            if dataclasses.is_dataclass(inner):
                yield from keys(inner)


def _introduction(text: str) -> str:
    head = [line.removeprefix("#").strip() for line in text.partition("\n\n")[0].splitlines()
            if line.startswith("#") and not KEY.match(line)]
    return " ".join([*(line if line.endswith(".") else f"{line}." for line in head),
                     "The file is TOML; unknown keys are refused, and all mistakes are named at once."])


def _body(entries: Iterable[Entry], kind: type) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if (entry.table, entry.key) in seen:
            continue
        seen.add((entry.table, entry.key))
        if entry.key:
            yield item(f"{entry.key} = {entry.example}", " ".join([entry.text, _about(kind, entry)]))
        else:
            yield subheading(entry.example) + (paragraph(entry.text) if entry.text else "")


def _entries(text: str) -> Iterator[Entry]:
    """Tables and keys in the order of the file; a comment above or beside something belongs to it."""
    table, above = "", list[str]()
    for line in text.splitlines():
        if found := TABLE.match(line):
            table = found[2]
            yield Entry(table, "", found[1], " ".join([*above, found[3] or ""]).strip())
        elif found := KEY.match(line):
            value, beside = _split(found[2])
            yield Entry(table, found[1], value, " ".join([*above, beside]).strip())
        elif line.startswith("#") and line.strip("# "):
            above.append(line.removeprefix("#").strip())
            continue
        above = []


def _split(text: str) -> tuple[str, str]:
    """A value, and the comment beside it; a `#` within quotes is part of the value."""
    for found in re.finditer(r"\s+#\s", text):
        try:
            tomllib.loads(f"key = {text[:found.start()]}")
        except tomllib.TOMLDecodeError:
            continue
        return text[:found.start()].strip(), text[found.end():].strip()
    return text.strip(), ""


def _about(kind: Any, entry: Entry) -> str:
    """What may stand there, and the default."""
    for part in filter(None, entry.table.split(".")):
        named = dataclasses.is_dataclass(kind)
        hint = typing.get_type_hints(kind)[part] if named else typing.get_args(kind)[-1]
        kind = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    field = next((f for f in dataclasses.fields(kind) if f.name == entry.key), None)
    if field is None:
        return ""
    known = [_words(typing.get_type_hints(kind)[entry.key]), _default(field)]
    return f"({', '.join(filter(None, known))})" if any(known) else ""


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(hint):
        yield from _parts(inner)


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in inner)
    if isinstance(hint, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_words, inner))))
    if origin is tuple:
        return "a list"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(hint, "")


def _default(field: dataclasses.Field[Any]) -> str:
    simple = isinstance(field.default, str | bool | int | float)
    if not simple or field.default == "":
        return ""
    shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return f"default {shown}"
