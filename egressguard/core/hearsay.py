"""Of whom relays and other routers may tell this one: of the site's hosts, and not of any number of them.

Whoever owns a relay can name what he likes. What is no host of this site is no evidence, and each name that
is believed costs memory here and room in the bulletin that relays read.
"""

from collections.abc import Collection, Container, Iterable, Mapping
from typing import TypeVar

from egressguard.core.hosts import Host
from egressguard.core.inventory import Inventory

MOST_STRANGERS = 50_000  # that have tried nothing here and are in no inventory
V = TypeVar("V")


class Hearsay:
    """Holds the strangers that are known by hearsay alone."""

    def __init__(self) -> None:
        self._strangers: set[Host] = set()
        self._full = False

    def believed(self, told: Mapping[Host, V], known: Container[Host], inventory: Inventory) -> dict[Host, V]:
        """What of `told` is of hosts that are `known` here, of the inventory, or among so many strangers."""
        return {host: what for host, what in told.items()
                if host in known or host in inventory.names or self._admitted(host, inventory)}

    def _admitted(self, host: Host, inventory: Inventory) -> bool:
        if host in self._strangers:
            return True
        if not inventory.lives_here(host):
            return False
        if len(self._strangers) >= MOST_STRANGERS:
            self._full = True
            return False
        self._strangers.add(host)
        return True

    def keep(self, untried: Iterable[Host], names: Collection[Host]) -> None:
        """Now and then: the strangers are those of the `untried` hosts that are not in the inventory."""
        self._strangers, self._full = {host for host in untried if host not in names}, False

    def fault(self) -> str:
        """That there were too many lately, in words; empty when there were not."""
        return (f"relays and routers have told of more than {MOST_STRANGERS} hosts that have tried nothing "
                "here and are in no inventory: the others are left out" if self._full else "")
