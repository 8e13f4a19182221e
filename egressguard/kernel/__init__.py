"""The kernel as the rest of the house sees it: read counters, read sets, apply; one file per interface."""

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from nftables import Nftables

from egressguard.core.attempts import Sample, Totals, Transit
from egressguard.core.connections import Connection
from egressguard.core.hosts import Host
from egressguard.core.plan import Changes, transaction
from egressguard.core.ruleset import TABLE, Element, Fields, Leases, Sets
from egressguard.core.tables import BRIDGE, ROUTER, Specs, Table
from egressguard.core.trial import TEMPORARY
from egressguard.kernel import links, nft
from egressguard.kernel.conntrack import Conntrack
from egressguard.kernel.events import Culprit
from egressguard.kernel.neighbours import read_neighbours
from egressguard.kernel.netlink import Netlink, NoSuchEntry
from egressguard.kernel.owner import FLAGS, KEPT
from egressguard.kernel.planted import read_planted
from egressguard.kernel.rules_file import RulesFile
from egressguard.kernel.ruleset import Ruleset, incarnation, read_generation, read_ruleset, read_table
from egressguard.kernel.scratch import expected_ruleset
from egressguard.kernel.seam import Kernel
from egressguard.kernel.sets import (
    StandingTexts,
    Texts,
    host_key,
    read_counted,
    read_counters,
    read_counts,
    read_elements,
    read_leases,
)

__all__ = ["Kernel", "Netfilter", "NoSuchEntry", "Ruleset", "incarnation"]


# What systemd/load-rules shuts port 25 with when nothing else loads: it goes in the transaction that brings
# the rules of the same family. Declared before, since deleting what is not there would fail.
FALLBACK = "egressguard_fallback"
RELIEF = {family: f"table {family} {FALLBACK}\ndelete table {family} {FALLBACK}\n"
          for family in (ROUTER.family, BRIDGE.family)}
OWN_GENERATIONS = 1000  # remembered; far more than come between two looks at the events


class Netfilter:
    """The real kernel.

    Only one that `claims` becomes the owner of its tables: the daemon's. A command that did and was stopped
    at its terminal would keep everybody from them.
    """

    def __init__(self, table: Table = ROUTER, own: deque[int] | None = None, *, claims: bool = False) -> None:
        self.claims = claims
        self._table = table
        self._netlink = Netlink(table.family)
        self._others: list[Netfilter] = []
        self._texts, self._standing = Texts(), StandingTexts()
        self._owner: Nftables | None = None  # alive for as long as the table is to be ours alone
        self._own: deque[int] = deque(maxlen=OWN_GENERATIONS) if own is None else own
        read_generation(self._netlink)  # no nf_tables, or no privileges: say it now

    def beside(self, table: Table) -> "Netfilter":
        """The same kernel, with another of our tables in view; changes by either are our own to both."""
        other = Netfilter(table, self._own, claims=self.claims)
        self._others.append(other)
        return other

    def close(self) -> None:
        """Closes the netlink socket, and those of the tables beside this one; what was owned has no owner."""
        self._owner = None
        self._netlink.close()
        for other in self._others:
            other.close()

    def generation(self) -> int:
        """Changes with every change to any ruleset; cheap."""
        return read_generation(self._netlink)

    def ruleset(self) -> Ruleset | None:
        """The table as it stands now; None when it does not exist."""
        return read_ruleset(self._netlink)

    def sets(self) -> Sets:
        """The elements of the configured sets."""
        found = {name: self._static(name, fields) for name, fields in self._table.configured.items()}
        if "own_cgroup" in found:  # one that is gone can match nothing, nor can nft name it
            found["own_cgroup"] -= {("",)}
        return found

    def _static(self, name: str, fields: Fields) -> frozenset[Element]:
        if name not in self._table.inventory and name not in self._table.counted:
            return frozenset(self._elements(name, fields))
        try:
            return read_counted(self._netlink, name, fields, self._standing)
        except NoSuchEntry:
            return frozenset()

    def _counted(self, sets: Specs) -> dict[Any, int]:
        counts: dict[Any, int] = {}
        for name, fields in sets.items():
            with suppress(NoSuchEntry):
                texts = self._standing if name in self._table.inventory else self._texts
                counts.update(read_counts(self._netlink, name, fields, texts))
        return counts

    def _elements(self, name: str, fields: Fields) -> dict[Element, int]:
        """A set that somebody has deleted is empty: loading the rules makes it again."""
        try:
            return read_elements(self._netlink, name, fields)
        except NoSuchEntry:
            return {}

    def leases(self) -> Leases:
        """The elements of the leased sets, with the seconds that each has left."""
        return self._timeouts(self._table.leased)

    def lasting(self) -> Leases:
        """What each element has left of those configured sets whose elements can have a timeout."""
        return self._timeouts({name: fields for name, fields in self._table.configured.items()
                               if name in TEMPORARY})

    def _timeouts(self, sets: Specs) -> Leases:
        leases: Leases = {}
        for name, fields in sets.items():
            try:
                leases[name] = read_leases(self._netlink, name, fields)
            except NoSuchEntry:
                leases[name] = {}
        return leases

    def planted(self) -> Changes:
        """What removes the elements that somebody has put into sets which only packets write."""
        return read_planted(self._netlink, self._table.written)

    def sender_macs(self) -> dict[str, frozenset[str]]:
        """The MACs that each sender's address has come from within the last hour."""
        return self._macs(self._table.sender_macs)

    def attempt_macs(self) -> dict[str, frozenset[str]]:
        """The MACs that each address's attempts have come from within the last hour."""
        return self._macs(self._table.attempt_macs)

    def neighbours(self, addresses: Container[str]) -> dict[str, frozenset[str]]:
        """The MACs that the neighbour table has for these addresses, as far as it knows them."""
        return read_neighbours(addresses)

    def transit(self) -> dict[str, Transit]:
        """What was tried from each interface that is not inside."""
        hosts: dict[str, dict[Host, int]] = {}
        for name, fields in self._table.transit.items():
            for (interface, address), count in self._elements(name, fields).items():
                hosts.setdefault(interface, {})[host_key(address)] = count
        return {interface: Transit(count, hosts.get(interface, {}))
                for name, fields in self._table.transit_if.items()
                for (interface,), count in self._elements(name, fields).items()}

    def _macs(self, sets: Specs) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for name, fields in sets.items():
            for address, mac in self._elements(name, fields):
                found.setdefault(address, set()).add(mac)
        return {address: frozenset(macs) for address, macs in found.items()}

    def only_counted(self) -> dict[Host, int]:
        """SYNs per host to ports that are only counted."""
        return self._counted(self._table.counted)

    def totals(self) -> Totals:
        """The named counters; cheap, whatever the sets hold."""
        counters = read_counters(self._netlink)
        return Totals(**{name: counters.get(name, 0) for name in Totals.__slots__})

    def sample(self, now_s: float, since: Totals | None = None) -> Sample:
        """All counters: per host, and per host and destination.

        With the totals of an earlier sample, MACs are left out, and destinations if none is new. Hosts are
        read before destinations: an attempt that falls between the two readings then has its destination
        already known, never a destination that is missing.
        """
        totals = self.totals()
        inventory, strangers = self.counts(self._table.inventory), self.counts(self._table.strangers)
        if since is None:
            return Sample(now_s, totals, inventory, strangers, self._counted(self._table.destinations),
                          self.attempt_macs())
        same = (totals.destinations, totals.fanout_overflow) == (since.destinations, since.fanout_overflow)
        return Sample(now_s, totals, inventory, strangers,
                      None if same else self._counted(self._table.destinations))

    def counts(self, sets: Specs) -> dict[Host, int]:
        """Attempts per host, of these counted sets alone."""
        return self._counted(sets)

    def expected(self, rules: RulesFile) -> Ruleset:
        """The table that the rules file makes."""
        return expected_ruleset(rules.anywhere())

    def load(self, rules: RulesFile, have: Ruleset | None, changes: Changes) -> None:
        """Loads the rules file over the table `have`, and applies `changes` in the same transaction.

        What the file does not have is removed: other chains and sets, base chains that hang elsewhere (the
        kernel refuses to move one), and sets that are made in another way (it would leave them so).
        """
        rules = self._kept(rules, have)
        text = self.loading(rules, have, changes)
        self._claim(rules)
        self._change(text, f"loading {rules}")

    def loading(self, rules: RulesFile, have: Ruleset | None, changes: Changes) -> str:
        """The transaction of `load`, as nft text; changes nothing."""
        rules = self._kept(rules, have)
        removed = _misplaced(have, self.expected(rules), rules) if have is not None else ""
        return self._relief() + removed + rules.text() + transaction(changes, self._table)

    def _kept(self, rules: RulesFile, have: Ruleset | None) -> RulesFile:
        """A table that nobody's death removes stays so."""
        rules = self._flagged(rules)
        lost = have is not None and have.persists and not rules.flags
        return replace(rules, flags=KEPT) if lost else rules

    def rebuild(self, rules: RulesFile, changes: Changes) -> None:
        """Puts a new table in place of the one that is there, whose counters and leases are lost."""
        rules = self._flagged(rules)
        text = self.rebuilding(rules, changes)
        self._claim(rules)
        self._change(text, f"loading {rules} in place of a damaged table")

    def rebuilding(self, rules: RulesFile, changes: Changes) -> str:
        """The transaction of `rebuild`, as nft text; changes nothing."""
        return (f"{self._relief()}delete table {self._table.family} {TABLE}\n{self._flagged(rules).text()}"
                f"{transaction(changes, self._table)}")

    def apply(self, changes: Changes) -> None:
        """Applies `changes` in one transaction; does nothing when there are none."""
        if changes:
            self._change(transaction(changes, self._table), "changing set elements")

    def owns(self) -> bool:
        """Whether this one owns its table, and nobody else can change it."""
        return self._owner is not None

    def _flagged(self, rules: RulesFile) -> RulesFile:
        """A table that can have an owner, and none: the kernel takes it so from whoever is not to own it."""
        return rules if self.claims or not rules.flags else replace(rules, flags=KEPT)

    def _relief(self) -> str:
        return RELIEF.get(self._table.family, "")

    def _claim(self, rules: RulesFile) -> None:
        """The next change is made as the owner, or, where the rules have none any more, by anybody."""
        if rules.flags != FLAGS:
            self._owner = None
        elif self._owner is None:
            self._owner = nft.context()

    def others(self, culprits: Iterable[Culprit]) -> list[Culprit]:
        """Those of `culprits` whose change was not one of ours."""
        return [culprit for culprit in culprits if culprit.generation not in self._own]

    def cut(self, ports: Iterable[int], chosen: Callable[[Connection], bool]) -> list[Connection]:
        """Ends the tracked connections to `ports` that are `chosen`; which ones."""
        conntrack = Conntrack()
        try:
            return conntrack.end(ports, chosen)
        finally:
            conntrack.close()

    def _change(self, transaction: str, what: str) -> None:
        """Applies, and remembers which generation that made: our own changes come back as events.

        A pid would not tell, since the kernel's is not the one that a container sees. If somebody else
        changed something at the same instant, both are taken for others.
        """
        before = self.generation()
        nft.apply(transaction, what, self._owner)
        if self.generation() == before + 1:
            self._own.append(before + 1)

    def interfaces(self) -> frozenset[str]:
        """The names of the interfaces that exist."""
        return links.read_interfaces()

    def ports(self) -> dict[str, frozenset[str]]:
        """The ports of every bridge."""
        return links.read_ports()

    def macs(self, names: Collection[str]) -> tuple[frozenset[Element], frozenset[Element]]:
        """Those of the interfaces `names` with the MACs that this machine sends with, and those of them by
        which others' leave rightly.
        """
        return links.read_macs(names)

    def fallback(self) -> bool:
        """Whether the built-in block of port 25 stands, which a boot loads when nothing else can be."""
        return read_table(self._netlink, FALLBACK) is not None


def _misplaced(have: Ruleset, want: Ruleset, rules: RulesFile) -> str:
    """The transaction that empties every chain, and removes those that the rules lack or have elsewhere."""
    foreign = sorted(have.chains - want.chains)
    moved = sorted(name for name in have.chains & want.chains
                   if have.hooks.get(name) != want.hooks.get(name)
                   or (name in have.hooks and have.devices != frozenset(rules.interfaces)))
    every = sorted(have.chains)
    # All are emptied first, whether or not the file does: otherwise a chain whose `flush` it lacks would hold
    # its rules twice, and one that is jumped to could not be deleted. The rules follow in the same
    # transaction, so no packet meets an empty chain.
    where = f"chain {rules.table.family} {TABLE}"
    flushed = "".join(f"flush {where} {name}\n" for name in every)
    deleted = "".join(f"delete {where} {name}\n" for name in foreign + moved)
    strange = "".join(f"delete {kind} {rules.table.family} {TABLE} {name}\n"
                      for name, kind in have.strange(want).items())
    return flushed + deleted + strange
