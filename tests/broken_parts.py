"""A good configuration, broken at one place after another: what then is reported must be that place's own."""

import copy
import json
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]


def toml(table: dict[str, Any]) -> str:
    """`table` as a TOML file, a line for each of its keys."""
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in table.items())


def broken_values(table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key of each part, and the table with something there that no part can be."""
    for place in _places(table):
        broken = copy.deepcopy(table)
        above = _above(broken, place)
        above[place[-1]] = [True] if isinstance(above[place[-1]], dict) else {"wrong": True}
        yield ".".join(map(str, place)), broken


def misspelt_keys(table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key with a letter too many, and the table with it."""
    for place in _places(table):
        if isinstance(place[-1], str):
            broken = copy.deepcopy(table)
            above, key = _above(broken, place), place[-1]
            items = [(name + "x" if name == key else name, value) for name, value in above.items()]
            above.clear()
            above.update(items)
            yield ".".join(map(str, place)) + "x", broken


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _above(table: Any, place: Place) -> Any:
    for word in place[:-1]:
        table = table[word]
    return table


def _places(value: Any, above: Place = ()) -> Iterator[Place]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for word, inner in items:
        yield *above, word
        yield from _places(inner, (*above, word))
