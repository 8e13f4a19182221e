"""A TOML file becomes a frozen value, or a ConfigError that names every mistake at once.

Both daemons read their configuration here. Pydantic checks the types strictly (a number in quotes is a
mistake, not a number); this file only turns its findings into sentences with file, key and what would be
right. Reading goes through JSON because strict mode accepts the text of an address there.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from egressguard.core.errors import ConfigError, Mistake

T = TypeVar("T")
_adapters: dict[type, TypeAdapter[Any]] = {}


def read(path: Path, program: str, kind: type[T], check: Callable[[T], Iterable[Mistake]]) -> T:
    """The value of dataclass `kind` in the file of `program`; `check` finds what no single field can tell."""
    return parse(read_text(path, program), path, kind, check)


def parse(toml: str, path: Path, kind: type[T], check: Callable[[T], Iterable[Mistake]]) -> T:
    """The same for the text that was read from `path`."""
    text = json.dumps(_load(toml, path), default=str)
    try:
        value: T = _adapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        causes = dict.fromkeys(_mistake(kind, e) for e in error.errors() if not _other_family(e))
        raise ConfigError(str(path), list(causes)) from None
    found = list(check(value))
    if found:
        raise ConfigError(str(path), found)
    return value


def _adapter(kind: type) -> TypeAdapter[Any]:
    """Made once: it takes longer than to read a file with it."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def read_text(path: Path, program: str) -> str:
    """The text of a configuration of `program`. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason += (f"; write it (`{program} init` does; every key: man {program}.toml), or name another "
                       "one with --config")
        raise ConfigError(str(path), [Mistake("", f"cannot be read: {reason}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Mistake("", f"is not TOML: {error}")]) from error


def _load(toml: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(toml)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(str(path), [Mistake("", f"is not TOML: {error}")]) from error


HINTS = {
    "networks": "; write a network such as 192.0.2.0/26 or 2001:db8::/64",
    "addresses": "; write an address such as 192.0.2.10 or 2001:db8::10",
}


def _mistake(kind: type, error: ErrorDetails) -> Mistake:
    location = [part for part in error["loc"] if not _is_union_member(part)]
    key = ".".join(str(part) for part in location)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return Mistake(key, _unknown_key(kind, location))
    if error["type"] in ("missing", "missing_argument"):
        return Mistake(key, "is missing")
    given = json.dumps(error["input"], default=str)[:80]
    reason = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    hint = next((HINTS[str(part)] for part in reversed(location) if part in HINTS), "")
    return Mistake(key, f"{given}: {reason}{hint}")


def _is_union_member(part: object) -> bool:
    """Pydantic puts the tried member of a union into the location; a user's file has no such key."""
    return isinstance(part, str) and part.startswith("lax-or-strict[")


def _other_family(error: ErrorDetails) -> bool:
    """Whether this is why an IPv4 text is not IPv6, or the reverse: both are tried, one is of interest."""
    tried = next((part for part in map(str, error["loc"]) if _is_union_member(part)), "")
    return ("ip_v6" in tried) if ":" not in str(error["input"]) else ("ip_v4" in tried)


def _unknown_key(kind: type, location: list[Any]) -> str:
    known = _fields_at(kind, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(known)}"
    return f"unknown key; {hint}"


def _fields_at(kind: Any, location: list[Any]) -> list[str]:
    """The keys that dataclass `kind` has at `location`."""
    for part in location:
        if dataclasses.is_dataclass(kind) and isinstance(part, str):
            kind = typing.get_type_hints(kind).get(part)
        else:
            kind = typing.get_args(kind)[-1 if typing.get_origin(kind) is dict else 0]
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
