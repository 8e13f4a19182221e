"""The seam between the house and the kernel: what the real one and the tests' stand-in both do."""

from collections.abc import Callable, Collection, Container, Iterable
from typing import Protocol

from egressguard.core.attempts import Sample, Totals, Transit
from egressguard.core.connections import Connection
from egressguard.core.hosts import Host
from egressguard.core.plan import Changes
from egressguard.core.ruleset import Element, Leases, Sets
from egressguard.core.tables import Table
from egressguard.kernel.events import Culprit
from egressguard.kernel.rules_file import RulesFile
from egressguard.kernel.ruleset import Ruleset


class Kernel(Protocol):
    """The seam to the kernel of one network namespace. Every method raises KernelError."""

    def generation(self) -> int:
        """Changes with every change to any ruleset; cheap."""

    def ruleset(self) -> Ruleset | None:
        """The table as it stands now; None when it does not exist."""

    def sets(self) -> Sets:
        """The elements of the configured sets."""

    def leases(self) -> Leases:
        """The elements of the leased sets, with the seconds that each has left."""

    def lasting(self) -> Leases:
        """What each element has left of those configured sets whose elements can have a timeout."""

    def planted(self) -> Changes:
        """What removes the elements that somebody has put into sets which only packets write."""

    def sender_macs(self) -> dict[str, frozenset[str]]:
        """The MACs that each sender's address has come from within the last hour."""

    def attempt_macs(self) -> dict[str, frozenset[str]]:
        """The MACs that each address's attempts have come from within the last hour."""

    def neighbours(self, addresses: Container[str]) -> dict[str, frozenset[str]]:
        """The MACs that the neighbour table has for these addresses, as far as it knows them."""

    def only_counted(self) -> dict[Host, int]:
        """SYNs per host to ports that are only counted."""

    def transit(self) -> dict[str, Transit]:
        """What was tried from each interface that is not inside."""

    def totals(self) -> Totals:
        """The named counters; cheap, whatever the sets hold."""

    def sample(self, now_s: float, since: Totals | None = None) -> Sample:
        """All counters: per host, and per host and destination; without what has not changed `since`."""

    def expected(self, rules: RulesFile) -> Ruleset:
        """The table that the rules file makes."""

    def load(self, rules: RulesFile, have: Ruleset | None, changes: Changes) -> None:
        """Loads the rules file over the table `have`, and applies `changes` in the same transaction."""

    def rebuild(self, rules: RulesFile, changes: Changes) -> None:
        """Puts a new table in place of the one that is there, whose counters and leases are lost."""

    def loading(self, rules: RulesFile, have: Ruleset, changes: Changes) -> str:
        """The transaction of `load`, as nft text; changes nothing."""

    def rebuilding(self, rules: RulesFile, changes: Changes) -> str:
        """The same of `rebuild`."""

    def apply(self, changes: Changes) -> None:
        """Applies `changes` in one transaction; does nothing when there are none."""

    def cut(self, ports: Iterable[int], chosen: Callable[[Connection], bool]) -> list[Connection]:
        """Ends the tracked connections to `ports` that are `chosen`; which ones."""

    def others(self, culprits: Iterable[Culprit]) -> list[Culprit]:
        """Those of `culprits` whose change was not one of ours."""

    def interfaces(self) -> frozenset[str]:
        """The names of the interfaces that exist."""

    def ports(self) -> dict[str, frozenset[str]]:
        """The ports of every bridge."""

    def macs(self, names: Collection[str]) -> tuple[frozenset[Element], frozenset[Element]]:
        """Those of the interfaces `names` with the MACs that this machine sends with, and those of them by
        which others' leave rightly.
        """

    claims: bool  # whether it becomes the owner of its tables where they are to have one

    def owns(self) -> bool:
        """Whether this one owns its table, and nobody else can change it."""

    def fallback(self) -> bool:
        """Whether the built-in block of port 25 stands, which a boot loads when nothing else can be."""

    def beside(self, table: Table) -> "Kernel":
        """The same kernel, with another of our tables in view; changes by either are our own to both."""

    def close(self) -> None:
        """Gives back what it holds."""
