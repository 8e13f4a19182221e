"""The kernel as the rest of the house sees it: read counters, read sets, apply; one file per interface."""

from pathlib import Path
from typing import Protocol

from egressguard.core.attempts import Sample, Totals
from egressguard.core.errors import KernelError
from egressguard.core.hosts import Host
from egressguard.core.plan import Changes, transaction
from egressguard.core.ruleset import (
    ATTEMPT_MACS,
    ATTEMPTS,
    CONFIGURED,
    DESTINATIONS,
    LEASED,
    SENDER_MACS,
    VERSION_CHAIN,
    Fields,
    Leases,
    Sets,
)
from egressguard.kernel import links, nft
from egressguard.kernel.netlink import Netlink, NoSuchEntry
from egressguard.kernel.ruleset import Ruleset, incarnation, read_generation, read_ruleset
from egressguard.kernel.sets import host_text, read_counters, read_elements, read_leases

__all__ = ["Kernel", "Netfilter", "NoSuchEntry", "Ruleset", "incarnation"]


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

    def sender_macs(self) -> dict[str, frozenset[str]]:
        """The MACs that each sender's address has come from within the last hour."""

    def totals(self) -> Totals:
        """The named counters; cheap, whatever the sets hold."""

    def sample(self, now_s: float) -> Sample:
        """All counters: per host, and per host and destination."""

    def load(self, rules: Path, changes: Changes) -> None:
        """Loads the rules file, again if it is loaded, and applies `changes` in the same transaction."""

    def apply(self, changes: Changes) -> None:
        """Applies `changes` in one transaction; does nothing when there are none."""

    def interfaces(self) -> frozenset[str]:
        """The names of the interfaces that exist."""


class Netfilter:
    """The real kernel."""

    def __init__(self) -> None:
        self._netlink = Netlink()
        read_generation(self._netlink)  # no nf_tables, or no privileges: say it now

    def close(self) -> None:
        """Closes the netlink socket."""
        self._netlink.close()

    def generation(self) -> int:
        """Changes with every change to any ruleset; cheap."""
        return read_generation(self._netlink)

    def ruleset(self) -> Ruleset | None:
        """The table as it stands now; None when it does not exist."""
        return read_ruleset(self._netlink)

    def sets(self) -> Sets:
        """The elements of the configured sets."""
        return {name: frozenset(read_elements(self._netlink, name, fields))
                for name, fields in CONFIGURED.items()}

    def leases(self) -> Leases:
        """The elements of the leased sets, with the seconds that each has left."""
        return {name: read_leases(self._netlink, name, fields) for name, fields in LEASED.items()}

    def sender_macs(self) -> dict[str, frozenset[str]]:
        """The MACs that each sender's address has come from within the last hour."""
        return self._macs(SENDER_MACS)

    def _macs(self, sets: dict[str, Fields]) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for name, fields in sets.items():
            for address, mac in read_elements(self._netlink, name, fields):
                found.setdefault(address, set()).add(mac)
        return {address: frozenset(macs) for address, macs in found.items()}

    def totals(self) -> Totals:
        """The named counters; cheap, whatever the sets hold."""
        counters = read_counters(self._netlink)
        return Totals(**{name: counters.get(name, 0) for name in Totals.__slots__})

    def sample(self, now_s: float) -> Sample:
        """All counters: per host, and per host and destination.

        Hosts are read before destinations: an attempt that falls between the two readings then has its
        destination already known, never a destination that is missing.
        """
        totals = self.totals()
        attempts = {Host(host_text(element)): count
                    for name, fields in ATTEMPTS.items()
                    for element, count in read_elements(self._netlink, name, fields).items()}
        destinations = {(Host(host_text(element)), element[1]): count
                        for name, fields in DESTINATIONS.items()
                        for element, count in read_elements(self._netlink, name, fields).items()}
        macs = {Host(host_text((a,))): found for a, found in self._macs(ATTEMPT_MACS).items()}
        return Sample(now_s, totals, attempts, destinations, macs)

    def load(self, rules: Path, changes: Changes) -> None:
        """Loads the rules file, again if it is loaded, and applies `changes` in the same transaction."""
        try:
            text = rules.read_text("utf-8")
        except OSError as error:
            raise KernelError(f"rules {rules}: cannot be read: {error.strerror}") from error
        if f"chain {VERSION_CHAIN} " not in text:
            raise KernelError(f"rules {rules}: lacks chain {VERSION_CHAIN}; use the rules that belong to "
                              "this version of egressguard")
        nft.apply(text + transaction(changes), f"loading {rules}")

    def apply(self, changes: Changes) -> None:
        """Applies `changes` in one transaction; does nothing when there are none."""
        if changes:
            nft.apply(transaction(changes), "changing set elements")

    def interfaces(self) -> frozenset[str]:
        """The names of the interfaces that exist."""
        return links.read_interfaces()
