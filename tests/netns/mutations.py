"""Every way to edit our tables behind egressguard's back, drawn from what the kernel lists of them: no chain, set or map
can be forgotten, nor one that a later version adds.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from egressguard.kernel import nft
from lab.namespaces import LabError, Namespace

TABLE = "egressguard"
FAMILIES = ("inet", "bridge", "netdev")
# Written by packets, and ended by time: whoever takes an element there, or adds one that ends as a packet's does, looks like
# traffic, so nothing can tell. What these sets are, and an element with a time of its own, is seen all the same.
TRAFFIC = frozenset({"stranger4", "stranger6", "fanout4", "fanout6", "stranger_fanout4", "stranger_fanout6", "attempt_mac4", "stranger_mac4", "stranger_mac6",
                     "attempt_mac6", "sender_mac4", "sender_mac6", "counted_stranger4", "counted_stranger6", "transit4", "transit6",
                     "transit_if", "proved4", "proved6", "flood4", "flood6"})
LEASE_S = 15.0  # by so much the end of an element may differ: reading and putting right take time
RULES = ("accept", "drop", "counter", "return", "meta l4proto tcp accept", "meta mark set 1")
OBJECT = re.compile(r"^\t(set|map) (\w+) {\n(.*?)^\t}", re.MULTILINE | re.DOTALL)
HOOK = re.compile(r"^\t(chain) (\w+) {\n\t\t(type .*)$", re.MULTILINE)
POLICIES = {"accept": "drop", "drop": "accept"}


@dataclass(frozen=True)
class Edit:
    """One transaction of nft's, the kind of harm it does, and the object that it does it to."""

    family: str
    kind: str
    target: str
    text: str


@dataclass
class Object:
    """A chain, set or map of one of our tables, as nft lists it; `rules` are a chain's."""

    family: str
    what: str
    name: str
    listed: Mapping[str, Any]
    rules: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def target(self) -> str:
        """Its name, unique among all our tables."""
        return f"{self.family} {self.what} {self.name}"

    @property
    def place(self) -> str:
        """How nft's commands call it."""
        return f"{self.family} {TABLE} {self.name}"

    @property
    def types(self) -> list[str]:
        """Of a set: what an element consists of."""
        kinds = self.listed["type"]
        return [kinds] if isinstance(kinds, str) else list(kinds)

    @property
    def flags(self) -> list[str]:
        """Of a set."""
        return list(self.listed.get("flags", []))

    def elements(self) -> list[str]:
        """Of a set: the elements, as nft's commands take them."""
        return [element_text(found, self.types) for found in self.listed.get("elem", [])]


class Reader:
    """Lists the ruleset of a namespace with libnftables, as nft does, but without a process each time."""

    def __init__(self, router: Namespace) -> None:
        self._nft = router.call(nft.context)

    def list(self, what: str, *, elements: bool = True, handles: bool = False, as_json: bool = False) -> str:
        """What `nft list` prints, with -t, -a or -j; without counts where it is no JSON."""
        self._nft.set_json_output(as_json)
        self._nft.set_handle_output(handles)
        self._nft.set_stateless_output(not as_json)
        self._nft.set_terse_output(not elements)
        code, text, error = self._nft.cmd(f"list {what}")
        if code != 0:
            raise LabError(f"nft list {what}: {error}")
        return str(text)


class Listing:
    """All our tables at one instant."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.read_s = time.monotonic()
        self.objects: dict[str, Object] = {}
        self.tables: dict[str, Mapping[str, Any]] = {}
        self.counters: set[str] = set()
        self._texts: dict[str, str] = {}
        self._declared: dict[str, str] = {}
        for entry in json.loads(reader.list("ruleset", handles=True, as_json=True))["nftables"]:
            for what, found in entry.items():
                self._take(what, found)

    def _take(self, what: str, found: Mapping[str, Any]) -> None:
        if what == "metainfo" or found.get("table", found["name"] if what == "table" else "") != TABLE:
            return
        if what == "table":
            self.tables[found["family"]] = found
        elif what == "rule":
            self.objects[f"{found['family']} chain {found['chain']}"].rules.append(found)
        elif what in ("chain", "set", "map"):
            made = Object(found["family"], what, found["name"], found)
            self.objects[made.target] = made
        else:
            self.counters.add(f"{found['family']} {what} {found['name']}")

    def text(self, family: str) -> str:
        """A table in nft's own language."""
        if family not in self._texts:
            self._texts[family] = self._reader.list(f"table {family} {TABLE}")
        return self._texts[family]

    def rule_texts(self, chain: Object) -> list[tuple[str, str]]:
        """A chain's rules with their handles, in their order."""
        text = self._reader.list(f"chain {chain.place}", handles=True)
        return re.findall(r"^\t\t(?!type )(.*) # handle (\d+)$", text, re.MULTILINE)

    def declared(self) -> dict[str, str]:
        """How each set, map and base chain is declared, without elements and rules; the JSON of nftables 1.0 leaves out
        flags and devices.
        """
        if self._declared:
            return self._declared
        text = self._reader.list("ruleset", elements=False)
        families = ((table[1], table[2]) for table in re.finditer(rf"^table (\w+) {TABLE} {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL))
        self._declared = {f"{family} {what} {name}": body for family, text in families for pattern in (OBJECT, HOOK)
                          for what, name, body in pattern.findall(text)}
        return self._declared

    def state(self) -> dict[str, Any]:
        """All that must be as it was: without handles, counts, and what packets write."""
        return {"tables": {family: found.get("flags") for family, found in self.tables.items()}, "counters": self.counters,
                **{f"{target}, as declared": text for target, text in self.declared().items()},
                **{target: self._state_of(made) for target, made in self.objects.items()}}

    def _state_of(self, made: Object) -> Any:
        kept = {key: value for key, value in made.listed.items() if key not in ("handle", "elem")}
        if made.what == "chain":
            return kept, [rule["expr"] for rule in made.rules]
        held = (found for found in made.listed.get("elem", []) if made.name not in TRAFFIC or has_own_time(found))
        return kept, {json.dumps(bare(found)): end_of(found, self.read_s) for found in held}


def bare(element: Any) -> Any:
    """An element without its counter and its times."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def has_own_time(element: Any) -> bool:
    """Whether an element has another lifetime than its set gives."""
    return isinstance(element, dict) and "timeout" in element.get("elem", {})


def end_of(element: Any, now_s: float) -> float | None:
    """When the kernel ends an element; None for one that stays."""
    found = element["elem"] if isinstance(element, dict) and "elem" in element else {}
    return now_s + found["expires"] if "expires" in found else None


def same(one: Any, other: Any) -> bool:
    """Whether two states are alike, but for a few seconds in the life of an element."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= LEASE_S
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def difference(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """What differs between two states, for whoever reads a failure."""
    found = (f"{key}: {have.get(key)} instead of {want.get(key)}" for key in have.keys() | want.keys()
             if not same(have.get(key), want.get(key)))
    return "\n".join(text[:2000] for text in found)


def element_text(element: Any, types: Sequence[str]) -> str:
    """An element of JSON as nft's language has it; of a map, its key."""
    value = bare(element[0] if isinstance(element, list) else element)
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return " . ".join(_field_text(part, kind) for part, kind in zip(parts, types, strict=True))


def _field_text(value: Any, kind: str) -> str:
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    if isinstance(value, dict) and "range" in value:
        return "-".join(map(str, value["range"]))
    return f'"{value}"' if kind in ("ifname", "cgroupsv2") else str(value)


# What no configuration of the test names, by the type of a field.
FIELDS: dict[str, Callable[[random.Random], str]] = {
    "iface_index": lambda dice: "lo",
    "ifname": lambda dice: f'"{dice.choice(("wan", "lo", "eth9"))}"',
    "ipv4_addr": lambda dice: f"203.0.113.{dice.randrange(1, 120)}",
    "ipv6_addr": lambda dice: f"2001:db8:ffff:{dice.randrange(1, 999)}::1",
    "ether_addr": lambda dice: f"00:00:5e:00:53:{dice.randrange(100, 250):02x}",
    "inet_service": lambda dice: str(dice.randrange(3000, 4000)),
    "inet_proto": lambda dice: str(dice.choice((6, 17, 200))),
    "nf_proto": lambda dice: dice.choice(("ipv4", "ipv6")),
    "ether_type": lambda dice: dice.choice(("ip", "ip6", "0x88b5")),
    "uid": lambda dice: str(dice.randrange(2000, 3000)),
    "cgroupsv2": lambda dice: '"/"',
}


def new_element(made: Object, dice: random.Random) -> str:
    """An element that the set does not hold, but has room for; empty when there is none."""
    held = set(made.elements())
    if len(held) >= made.listed.get("size", len(held) + 1):
        return ""
    return other_element(made, dice)


def other_element(made: Object, dice: random.Random) -> str:
    """An element that the set does not hold; empty when there is none."""
    held = set(made.elements())
    for _ in range(20):
        element = " . ".join(FIELDS[kind](dice) for kind in made.types)
        if element not in held:
            return element
    return ""


Kind = Callable[[Listing, Object, random.Random], str]


def _rule_put_first(listing: Listing, chain: Object, dice: random.Random) -> str:
    return f"insert rule {chain.place} {dice.choice(RULES)}"


def _rule_put_last(listing: Listing, chain: Object, dice: random.Random) -> str:
    return f"add rule {chain.place} {dice.choice(RULES)}"


def _rule_deleted(listing: Listing, chain: Object, dice: random.Random) -> str:
    return f"delete rule {chain.place} handle {dice.choice(chain.rules)['handle']}" if chain.rules else ""


def _rule_replaced(listing: Listing, chain: Object, dice: random.Random) -> str:
    handle = dice.choice(chain.rules)["handle"] if chain.rules else ""
    return handle and f"replace rule {chain.place} handle {handle} {dice.choice(RULES)}"


def _rule_moved(listing: Listing, chain: Object, dice: random.Random) -> str:
    texts = listing.rule_texts(chain)
    if len({text for text, _ in texts}) < 2:
        return ""
    text, handle = texts[-1]
    return f"delete rule {chain.place} handle {handle}; insert rule {chain.place} {text}"


def _chain_flushed(listing: Listing, chain: Object, dice: random.Random) -> str:
    return f"flush chain {chain.place}" if chain.rules else ""


def _chain_renamed(listing: Listing, chain: Object, dice: random.Random) -> str:
    return f"rename chain {chain.place} {chain.name}_renamed"


def _policy_changed(listing: Listing, chain: Object, dice: random.Random) -> str:
    policy = str(chain.listed.get("policy", ""))
    return policy and f"add chain {chain.place} {{ policy {POLICIES[policy]}; }}"


def _chain_deleted(listing: Listing, chain: Object, dice: random.Random) -> str:
    return f"flush chain {chain.place}; delete chain {chain.place}" if "hook" in chain.listed else ""


def _hung_elsewhere(listing: Listing, chain: Object, dice: random.Random) -> str:
    """The same rules at another priority; the kernel moves no chain, so it is made anew."""
    if "hook" not in chain.listed:
        return ""
    head = re.sub(r"priority [^;]+", f"priority {chain.listed['prio'] + 7}", listing.declared()[chain.target])
    rules = "".join(f"; add rule {chain.place} {text}" for text, _ in listing.rule_texts(chain))
    return f"{_chain_deleted(listing, chain, dice)}; add chain {chain.place} {{ {head} }}{rules}"


def _element_added(listing: Listing, made: Object, dice: random.Random) -> str:
    element = "" if made.name in TRAFFIC else new_element(made, dice)
    return element and f"add element {made.place} {{ {element} }}"


def _element_lent(listing: Listing, made: Object, dice: random.Random) -> str:
    element = new_element(made, dice) if "timeout" in made.flags and made.name not in TRAFFIC else ""
    return element and f"add element {made.place} {{ {element} timeout 2h }}"


def _element_planted(listing: Listing, made: Object, dice: random.Random) -> str:
    """Where only packets write."""
    return f"add element {made.place} {{ {new_element(made, dice)} timeout 2h }}" if made.name in TRAFFIC else ""


def _element_deleted(listing: Listing, made: Object, dice: random.Random) -> str:
    held = [] if made.name in TRAFFIC else made.elements()
    return f"delete element {made.place} {{ {dice.choice(held)} }}" if held else ""


def _element_exchanged(listing: Listing, made: Object, dice: random.Random) -> str:
    added, deleted = _element_added(listing, made, dice), _element_deleted(listing, made, dice)
    return f"{deleted}; {added}" if added and deleted else ""


def _time_changed(listing: Listing, made: Object, dice: random.Random) -> str:
    """What should stay ends in two hours, and so does what should end earlier."""
    deleted = _element_deleted(listing, made, dice) if "timeout" in made.flags else ""
    element = deleted.partition("{ ")[2].removesuffix(" }")
    return deleted and f"{deleted}; add element {made.place} {{ {element} timeout 2h }}"


def _set_flushed(listing: Listing, made: Object, dice: random.Random) -> str:
    return f"flush {made.what} {made.place}" if made.listed.get("elem") and made.name not in TRAFFIC else ""


def _set_remade(change: Callable[[str], str]) -> Kind:
    """The same rules and elements on a set or map that is another one."""
    def remade(listing: Listing, made: Object, dice: random.Random) -> str:
        text = listing.text(made.family)
        begin = text.index(f"\t{made.what} {made.name} {{")
        end = text.index("\n\t}\n", begin)
        changed = change(text[begin:end])
        if changed == text[begin:end]:
            return ""
        table = f"{made.family} {TABLE}"
        return f"flush table {table}\ndelete {made.what} {made.place}\n{text[:begin]}{changed}{text[end:]}"
    return remade


def _another_size(declared: str) -> str:
    without = re.sub(r"\n\t\tsize \d+", "", declared)
    return re.sub(r"(\n\t\ttype [^\n]*)", r"\1\n\t\tsize 77777", without, count=1)


def _with_timeout(declared: str) -> str:
    if "flags " in declared:
        return declared if "timeout" in declared else re.sub(r"\n\t\tflags ([^\n]*)", r"\n\t\tflags \1,timeout", declared)
    return re.sub(r"(\n\t\ttype [^\n]*)", r"\1\n\t\tflags timeout", declared, count=1)


def _verdict_changed(listing: Listing, made: Object, dice: random.Random) -> str:
    keys = made.elements() if made.what == "map" else []
    key = dice.choice(keys) if keys else ""
    return key and f"delete element {made.place} {{ {key} }}; add element {made.place} {{ {key} : accept }}"


def _key_exchanged(listing: Listing, made: Object, dice: random.Random) -> str:
    return f"{_key_deleted(listing, made, dice)}; add element {made.place} {{ {other_element(made, dice)} : accept }}"


def _key_deleted(listing: Listing, made: Object, dice: random.Random) -> str:
    return f"delete element {made.place} {{ {dice.choice(made.elements())} }}"


CHAIN_KINDS: dict[str, Kind] = {
    "a rule first": _rule_put_first, "a rule last": _rule_put_last, "a rule deleted": _rule_deleted,
    "a rule replaced": _rule_replaced, "a rule moved": _rule_moved, "a chain flushed": _chain_flushed,
    "a chain renamed": _chain_renamed, "another policy": _policy_changed, "a base chain deleted": _chain_deleted,
    "another priority": _hung_elsewhere,
}
SET_KINDS: dict[str, Kind] = {
    "an element added": _element_added, "an element added for a time": _element_lent, "an element deleted": _element_deleted,
    "an element planted": _element_planted,
    "an element exchanged": _element_exchanged, "another time": _time_changed, "a set flushed": _set_flushed,
    "a set of another size": _set_remade(_another_size), "a set with times": _set_remade(_with_timeout),
}
MAP_KINDS: dict[str, Kind] = {
    "a key exchanged": _key_exchanged, "a key deleted": _key_deleted, "another verdict": _verdict_changed, "a map flushed": _set_flushed,
    "a map of another size": _set_remade(_another_size),
}
KINDS = {"chain": CHAIN_KINDS, "set": SET_KINDS, "map": MAP_KINDS}
TABLE_KINDS = {
    "a table flushed": "flush table {0}", "a table deleted": "delete table {0}", "a dormant table": "add table {0} {{ flags dormant; }}",
    "a chain more": "add chain {0} extra",
}
HOOKED = {"inet": "forward", "bridge": "forward"}


def edits_of(listing: Listing, made: Object, dice: random.Random, kinds: Mapping[str, Kind]) -> Iterator[Edit]:
    """Each harm that can be done to an object as it is now."""
    for kind, harm in kinds.items():
        if text := harm(listing, made, dice):
            yield Edit(made.family, kind, made.target, text)


def table_edits(listing: Listing) -> Iterator[Edit]:
    """Harm to a table as a whole."""
    for family in listing.tables:
        table = f"{family} {TABLE}"
        for kind, text in TABLE_KINDS.items():
            yield Edit(family, kind, f"{family} table", text.format(table))
        if family in HOOKED:
            yield Edit(family, "a base chain more", f"{family} table", f"add chain {table} extra {{ type filter hook "
                       f"{HOOKED[family]} priority 5; policy drop; }}")
    yield Edit("", "the whole ruleset", "ruleset", "flush ruleset")


def possible(listing: Listing, dice: random.Random) -> list[Edit]:
    """Every harm to every object, and to the tables."""
    made = (edit for found in listing.objects.values() for edit in edits_of(listing, found, dice, KINDS[found.what]))
    return [*made, *table_edits(listing)]


def schedule(edits: Sequence[Edit], dice: random.Random, times: int) -> list[Edit]:
    """So many of them: each kind of harm to each table; where there is room, one to each object; then any, rare kinds as
    often as frequent ones. An edit is made again when its turn comes: rules that were put right have other handles.
    """
    kinds, targets = _grouped(edits, lambda edit: (edit.family, edit.kind)), _grouped(edits, lambda edit: edit.target)
    chosen = [dice.choice(found) for found in kinds.values()]
    if times >= len(kinds) + len(targets):
        chosen += [dice.choice(found) for found in targets.values()]
    while len(chosen) < times:
        chosen.append(dice.choice(dice.choice(list(kinds.values()))))
    dice.shuffle(chosen)
    return chosen


def _grouped(edits: Sequence[Edit], key: Callable[[Edit], Any]) -> dict[Any, list[Edit]]:
    found: dict[Any, list[Edit]] = {}
    for edit in edits:
        found.setdefault(key(edit), []).append(edit)
    return found


def again(listing: Listing, edit: Edit, dice: random.Random) -> str:
    """The transaction that does the same to what is listed now."""
    made = listing.objects.get(edit.target)
    return edit.text if made is None else KINDS[made.what][edit.kind](listing, made, dice)
