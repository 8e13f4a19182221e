"""The difference between what the kernel holds and what it should hold, as one printable transaction."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from egressguard.core.ruleset import TABLE, Element, Leases, Sets
from egressguard.core.tables import ROUTER, Table

QUOTED = ("ifname", "cgroup")

# A lease whose time differs by less is left alone: reading, deciding and applying take time as well.
LEASE_TOLERANCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """Elements to remove from and to add to one set; `timeouts_s` of the added ones that are leases."""

    set_name: str
    added: tuple[Element, ...] = ()
    removed: tuple[Element, ...] = ()
    timeouts_s: Mapping[Element, float] = field(default_factory=dict)


Changes = tuple[Change, ...]


def diff(have: Sets, want: Sets) -> Changes:
    """What turns `have` into `want`; empty when nothing differs. Nothing that is right is touched.

    In the order of `have`, safest step first (core/ruleset.py): the kernel applies a transaction as a whole,
    but whoever reads `plan`, or applies it by hand, lets the permitted through before closing.
    """
    changes = []
    for name in have:
        added, removed = want[name] - have[name], have[name] - want[name]
        if added or removed:
            changes.append(Change(name, tuple(sorted(added)), tuple(sorted(removed))))
    return tuple(changes)


def lease_diff(have: Leases, want: Leases) -> Changes:
    """The same for leases: an element whose time is wrong is removed and added in one transaction.

    Adding an element that exists would leave its timeout as it was (kernels before 6.12).
    """
    changes = []
    for name in have:
        wrong = {e for e, left_s in have[name].items()
                 if e not in want[name] or abs(want[name][e] - left_s) > LEASE_TOLERANCE_S}
        added = {e: left_s for e, left_s in want[name].items() if e in wrong or e not in have[name]}
        if added or wrong:
            changes.append(Change(name, tuple(sorted(added)), tuple(sorted(wrong)), added))
    return tuple(changes)


# Sets whose surplus elements let more through, and sets whose missing elements do.
LOOSENING = frozenset({"own_mac", "any_mac", "inside_if", "bridged_if", "other_port", "allow4", "allow6",
                       "allow_mac4", "allow_mac6", "own_uid", "own_cgroup", "own_to4", "own_to6",
                       "group_observe4", "group_observe6", "observed_net4", "observed_net6",
                       "observed_family"})
TIGHTENING = frozenset({"shared_if", "smtp_ports", "blocked_ports", "group_enforce4", "group_enforce6",
                        "enforced_net4", "enforced_net6", "guarded_output"})


def too_loose(changes: Changes) -> list[str]:
    """The sets in which the kernel lets more through than it would after `changes`."""
    return [change.set_name for change in changes
            if (change.removed and change.set_name in LOOSENING)
            or (change.added and change.set_name in TIGHTENING)]


def transaction(changes: Changes, table: Table = ROUTER) -> str:
    """`changes` as text for `nft -f`; the empty string when there is nothing to do."""
    return "".join(f"{line}\n" for change in changes for line in _lines(change, table))


def _lines(change: Change, table: Table) -> Iterator[str]:
    for verb, elements in (("delete", change.removed), ("add", change.added)):
        if elements:
            body = ", ".join(_element_text(change, element, table, verb == "add") for element in elements)
            yield f"{verb} element {table.family} {TABLE} {change.set_name} {{ {body} }}"


def _element_text(change: Change, element: Element, table: Table, adding: bool) -> str:
    fields = zip(table.fields(change.set_name), element, strict=True)
    text = " . ".join(f'"{value}"' if kind in QUOTED else value for kind, value in fields)
    if adding and element in change.timeouts_s:
        return f"{text} timeout {max(1, round(change.timeouts_s[element]))}s"
    return text
