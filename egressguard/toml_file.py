"""A TOML file becomes a frozen value, or a ConfigError that names every mistake at once.

Both daemons read their configuration here. Pydantic checks the types strictly (a number in quotes is a
mistake, not a number); this file only turns its findings into sentences with file, key and what would be
right. Reading goes through JSON because strict mode accepts the text of an address there.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from egressguard.core.errors import ConfigError, Mistake
from egressguard.toml_remains import Place, in_order, independent, kind_at, remains

T = TypeVar("T")
_adapters: dict[type, TypeAdapter[Any]] = {}


def read(path: Path, program: str, kind: type[T], check: Callable[[T], Iterable[Mistake]]) -> T:
    """The value of dataclass `kind` in the file of `program`; `check` finds what no single field can tell."""
    return parse(read_text(path, program), path, kind, check)


def parse(toml: str, path: Path, kind: type[T], check: Callable[[T], Iterable[Mistake]]) -> T:
    """The same for the text that was read from `path`."""
    text = json.dumps(_load(toml, path), default=str)
    try:
        value = _value(kind, text)
    except ValidationError as error:
        raise ConfigError(str(path), _all_mistakes(kind, json.loads(text), error, check)) from None
    found = [*_nul_mistakes(json.loads(text)), *check(value)]
    if found:
        raise ConfigError(str(path), in_order(found, json.loads(text)))
    return value


def _value(kind: type[T], text: str) -> T:
    value: T = _adapter(kind).validate_json(text, strict=True, extra="forbid")
    return value


def _all_mistakes(kind: type[T], data: Any, error: ValidationError, check: Callable[[T], Iterable[Mistake]]
                  ) -> list[Mistake]:
    """Those of `error`, and what `check` finds in the rest of the file."""
    errors = [e for e in error.errors() if not _other_family(e)]
    meant = {place for e in errors if _is_unknown(e) for place in _meant(kind, data, _place(e))}
    broken = {*map(_place, errors)}
    found = [_mistake(kind, e) for e in errors if _is_unknown(e) or _place(e) not in meant]
    if () not in broken:
        rest = _value(kind, json.dumps(remains(data, kind, broken)))
        found += independent(check(rest), broken | meant)
    return in_order([*found, *_nul_mistakes(data)], data)


def _nul_mistakes(data: Any, place: Place = ()) -> Iterator[Mistake]:
    """TOML can write a NUL into any text, and neither a path nor a name can hold one."""
    if isinstance(data, str) and "\0" in data:
        yield Mistake(".".join(map(str, place)), f"{data[:80]!r} has a NUL character: remove it")
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _nul_mistakes(value, (*place, key))


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


def _place(error: ErrorDetails) -> Place:
    return tuple(part for part in error["loc"] if not _is_union_member(part))


def _is_unknown(error: ErrorDetails) -> bool:
    return error["type"] in ("unexpected_keyword_argument", "extra_forbidden")


def _mistake(kind: type, error: ErrorDetails) -> Mistake:
    location = _place(error)
    key = ".".join(str(part) for part in location)
    if _is_unknown(error):
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


def _unknown_key(kind: type, place: Place) -> str:
    close = _close(kind, place)
    return f"unknown key; did you mean {close!r}?" if close else (
        f"unknown key; known keys here: {', '.join(_known(kind, place))}")


def _meant(kind: type, data: Any, place: Place) -> Iterator[Place]:
    """What the unknown key at `place` seems to be: one that is not there, or a further table of a list."""
    for word in place[:-1]:
        data = data[word]
    close = _close(kind, place)
    if close and close not in data:
        yield *place[:-1], close
    elif close and isinstance(data[close], list) and dataclasses.is_dataclass(
            kind_at(kind, (*place[:-1], close, 0))):
        yield *place[:-1], close, len(data[close])


def _close(kind: type, place: Place) -> str:
    return next(iter(difflib.get_close_matches(str(place[-1]), _known(kind, place), n=1)), "")


def _known(kind: type, place: Place) -> list[str]:
    """The keys that may stand beside the one at `place`."""
    table = kind_at(kind, place[:-1])
    return [field.name for field in dataclasses.fields(table)] if dataclasses.is_dataclass(table) else []
