"""What can still be checked in a file of which parts did not parse, so that one report names every mistake.

Those parts are left out; what they made another check say is no mistake of its own, and is not reported.
Places are the words of a key: `("host", 3, "name")` for `host.3.name`.
"""

import copy
import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from egressguard.core.errors import Mistake

Place = tuple[str | int, ...]
ANY = "*"
_types: dict[type, dict[str, Any]] = {}


def remains(data: Any, kind: type, broken: Iterable[Place]) -> Any:
    """`data`, which should become a `kind`, without what is `broken`.

    A table in a list stays, empty, and so does a key that has no default: the keys of the others must not
    change.
    """
    data = copy.deepcopy(data)
    for place in sorted(broken, reverse=True):  # from the end: what stands later in a list moves
        *above, last = place
        table: Any = data
        for word in above:
            table = table[word]
        blank = _blank(kind, place)
        if blank is not None:
            table[last] = blank
        elif not isinstance(table, dict) or last in table:
            del table[last]
    return data


def independent(mistakes: Iterable[Mistake], broken: Iterable[Place]) -> Iterator[Mistake]:
    """Those of `mistakes` that would be found whatever stood where something is `broken`."""
    words = [tuple(map(str, place)) for place in broken]
    for mistake in mistakes:
        key = tuple(mistake.key.split("."))
        if any(len(place) <= len(key) and _meet(place, key) for place in words):
            continue
        if not any(_meet(place, tuple(need.split("."))) for need in mistake.needs for place in words):
            yield mistake


def in_order(mistakes: Iterable[Mistake], data: Any) -> list[Mistake]:
    """As their keys follow one another in the file; what is missing comes after its neighbours."""
    return sorted(dict.fromkeys(mistakes), key=lambda mistake: _position(mistake.key, data))


def kind_at(kind: Any, place: Place) -> Any:
    """What dataclass `kind` wants at `place`; None where it wants nothing."""
    for word in place:
        if dataclasses.is_dataclass(kind) and isinstance(word, str):
            kind = _types_of(kind).get(word)
        else:
            inner = typing.get_args(kind)
            kind = inner[-1 if typing.get_origin(kind) is dict else 0] if inner else None
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
    return kind


def _types_of(kind: Any) -> dict[str, Any]:
    if kind not in _types:
        _types[kind] = typing.get_type_hints(kind)
    return _types[kind]


def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one is the other, or a part of it."""
    return all(a == b or ANY in (a, b) for a, b in zip(one, other, strict=False))


def _blank(kind: Any, place: Place) -> Any:
    """What keeps the place of something that cannot be left out; None when it can."""
    above, wanted = kind_at(kind, place[:-1]), kind_at(kind, place)
    if dataclasses.is_dataclass(above):
        needed = {field.name for field in dataclasses.fields(above) if _is_needed(field)}
        return _empty(wanted) if place[-1] in needed else None
    return _empty(wanted) if dataclasses.is_dataclass(wanted) else None


def _empty(kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        needed = [field.name for field in dataclasses.fields(kind) if _is_needed(field)]
        return {name: _empty(_types_of(kind)[name]) for name in needed}
    return [] if typing.get_origin(kind) is tuple else ""


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _position(key: str, data: Any) -> list[int]:
    position = []
    for word in key.split("."):
        if isinstance(data, list) and word.isdecimal() and int(word) < len(data):
            position.append(int(word))
            data = data[int(word)]
        elif isinstance(data, dict) and word in data:
            position.append(list(data).index(word))
            data = data[word]
        else:
            return [*position, len(data) if isinstance(data, list | dict) else 0]
    return position
