"""What stands in the kernel beside the elements: the table's identity, its hooks, and its rules.

The rules' fingerprint is a hash over what the kernel holds, not over a file: whoever loads rules/ takes
it afterwards, and every later difference is somebody's edit.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.core.ruleset import CONSTANTS, TABLE
from egressguard.kernel.declared import read_declared
from egressguard.kernel.netlink import (
    GETCHAIN,
    GETGEN,
    GETRULE,
    GETTABLE,
    Netlink,
    NoSuchEntry,
    attribute,
    attributes,
    text,
)
from egressguard.kernel.sets import read_raw

TABLE_NAME, TABLE_FLAGS, TABLE_HANDLE = 1, 2, 4
TABLE_DORMANT, TABLE_OWNED, TABLE_PERSISTS = 1, 2, 4  # linux/netfilter/nf_tables.h
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY = 1, 3, 4, 5
HOOK_NUMBER, HOOK_PRIORITY = 1, 2
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
GENERATION_ID = 1
HOOK_DEVICE, HOOK_DEVICES, DEVICE_NAME = 3, 4, 1
HOOK_NAMES = ("prerouting", "input", "forward", "output", "postrouting")
NETDEV_HOOK_NAMES = ("ingress", "egress")


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The table as the kernel has it.

    `handle` changes when the table is made anew, `dormant` means its hooks are switched off, `hooks`
    maps its base chains to where they hang (hook, priority, policy), `fingerprint` covers all its rules,
    chains, hooks and sets. `sets` are what it declares: a set's kind and all that it is made with, not its
    elements. `devices` are the interfaces that base chains of family netdev hang on. `owned` means
    that a living process owns the table, `persists` that it can have an owner (see kernel/owner.py).
    """

    handle: int
    dormant: bool
    chains: frozenset[str]
    hooks: dict[str, str]
    fingerprint: str
    devices: frozenset[str] = frozenset()
    owned: bool = False
    persists: bool = False
    sets: Mapping[str, str] = field(default_factory=dict)

    def strange(self, want: "Ruleset") -> dict[str, str]:
        """Its sets that `want` lacks, or makes in another way, each with its kind."""
        return {name: made.partition(" ")[0] for name, made in self.sets.items()
                if want.sets.get(name) != made}


def incarnation(boot: str, ruleset: Ruleset) -> str:
    """The name of one life of the table: its counters began at zero with it.

    Handles are counted per network namespace, so the namespace's inode belongs to the name.
    """
    return f"{boot}:{Path('/proc/self/ns/net').stat().st_ino}:{ruleset.handle}"


def read_generation(netlink: Netlink) -> int:
    """The number that the kernel raises with every change to any ruleset of this network namespace."""
    answer = netlink.get(GETGEN, 0, b"", "asking nf_tables for its generation")
    return _u32(dict(attributes(answer))[GENERATION_ID])


def read_table(netlink: Netlink, name: str) -> dict[int, memoryview] | None:
    """The attributes of a table of this family; None when it does not exist."""
    try:
        return dict(attributes(netlink.get(GETTABLE, netlink.family, attribute(TABLE_NAME, name),
                                           f"reading table {netlink.name} {name}")))
    except NoSuchEntry:
        return None


def read_ruleset(netlink: Netlink) -> Ruleset | None:
    """The table as it stands now; None when it does not exist."""
    table = read_table(netlink, TABLE)
    if table is None:
        return None
    devices: set[str] = set()
    flags = _u32(table[TABLE_FLAGS])
    chains = _chains(netlink, devices)
    hooks = {name: hook for name, hook in chains.items() if hook}
    sets = read_declared(netlink)
    return Ruleset(
        handle=struct.unpack(">Q", table[TABLE_HANDLE])[0],
        dormant=bool(flags & TABLE_DORMANT),
        chains=frozenset(chains),
        hooks=hooks,
        fingerprint=_fingerprint(netlink, chains) + _digest(sets),
        devices=frozenset(devices),
        owned=bool(flags & TABLE_OWNED),
        persists=bool(flags & TABLE_PERSISTS),
        sets=sets,
    )


def _u32(payload: memoryview) -> int:
    value: int = struct.unpack(">I", payload)[0]
    return value


def _chains(netlink: Netlink, devices: set[str]) -> dict[str, str]:
    """Every chain of the table with its hook, priority and policy; empty text for one without a hook.

    Adds the interfaces that they hang on to `devices`.
    """
    names = NETDEV_HOOK_NAMES if netlink.name == "netdev" else HOOK_NAMES
    chains = {}
    for answer in netlink.dump(GETCHAIN, netlink.family, attribute(CHAIN_TABLE, TABLE), "reading chains"):
        found = dict(attributes(answer))
        if text(found[CHAIN_TABLE]) == TABLE:
            hook = dict(attributes(found[CHAIN_HOOK])) if CHAIN_HOOK in found else {}
            chains[text(found[CHAIN_NAME])] = _hook(found, hook, names)
            devices |= _devices(hook)
    return chains


def _devices(hook: dict[int, memoryview]) -> set[str]:
    listed = {text(name) for kind, name in attributes(hook.get(HOOK_DEVICES, memoryview(b"")))
              if kind == DEVICE_NAME}
    return listed | ({text(hook[HOOK_DEVICE])} if HOOK_DEVICE in hook else set())


def _hook(chain: dict[int, memoryview], hook: dict[int, memoryview], names: tuple[str, ...]) -> str:
    if not hook:
        return ""
    number, policy = _u32(hook[HOOK_NUMBER]), _u32(chain[CHAIN_POLICY])
    name = names[number] if number < len(names) else str(number)
    priority = struct.unpack(">i", hook[HOOK_PRIORITY])[0]
    return f"{name} {priority} {policy}"


def _fingerprint(netlink: Netlink, chains: dict[str, str]) -> str:
    """A hash over chains, their rules, and what else the file fills. Chains come in the order in which
    they were made, which says nothing; the rules within one come in theirs, which says everything.
    """
    rules: dict[str, list[str]] = {name: [hook] for name, hook in chains.items()}
    for answer in netlink.dump(GETRULE, netlink.family, attribute(RULE_TABLE, TABLE), "reading rules"):
        found = dict(attributes(answer))
        if text(found[RULE_TABLE]) == TABLE:
            expressions = bytes(found.get(RULE_EXPRESSIONS, b"")).hex()
            rules.setdefault(text(found[RULE_CHAIN]), []).append(expressions)
    rules |= {f"constant {name}": _elements(netlink, name) for name in CONSTANTS}
    return _digest(rules)


def _digest(found: Mapping[str, object]) -> str:
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _elements(netlink: Netlink, name: str) -> list[str]:
    """A set's or map's elements as the kernel has them; none when it is missing."""
    try:
        return sorted(bytes(element).hex() for element in read_raw(netlink, name))
    except NoSuchEntry:
        return []
