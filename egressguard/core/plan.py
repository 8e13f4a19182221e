"""The difference between what the kernel holds and what it should hold, as one printable transaction."""

from collections.abc import Iterator
from dataclasses import dataclass

from egressguard.core.ruleset import CONFIGURED, FAMILY, TABLE, Element, Sets

# Safest step first. The kernel applies a transaction as a whole, so this order matters to the reader of
# `plan` and to whoever has to apply it by hand: let the permitted through before closing, close last.
ORDER = ("smtp_ports", "known4", "known6", "allow4", "allow6", "inside_if", "observed_family")


@dataclass(frozen=True, slots=True)
class Change:
    """Elements to add to and to remove from one set."""

    set_name: str
    added: tuple[Element, ...] = ()
    removed: tuple[Element, ...] = ()


Changes = tuple[Change, ...]


def diff(have: Sets, want: Sets) -> Changes:
    """What turns `have` into `want`; empty when nothing differs. Nothing that is right is touched."""
    changes = []
    for name in ORDER:
        added, removed = want[name] - have[name], have[name] - want[name]
        if added or removed:
            changes.append(Change(name, tuple(sorted(added)), tuple(sorted(removed))))
    return tuple(changes)


def transaction(changes: Changes) -> str:
    """`changes` as text for `nft -f`; the empty string when there is nothing to do."""
    return "".join(f"{line}\n" for change in changes for line in _lines(change))


def _lines(change: Change) -> Iterator[str]:
    for verb, elements in (("add", change.added), ("delete", change.removed)):
        if elements:
            body = ", ".join(_element_text(change.set_name, element) for element in elements)
            yield f"{verb} element {FAMILY} {TABLE} {change.set_name} {{ {body} }}"


def _element_text(set_name: str, element: Element) -> str:
    fields = zip(CONFIGURED[set_name], element, strict=True)
    return " . ".join(f'"{text}"' if kind == "ifname" else text for kind, text in fields)
