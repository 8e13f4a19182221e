"""The rules in the router's kernel without a daemon: any text of them, with a site's elements."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from egressguard.config import read_site
from egressguard.core import plan, policy
from egressguard.core.ruleset import Element, Fields, Sets
from egressguard.core.tables import ROUTER
from egressguard.kernel import nft
from egressguard.kernel.netlink import FAMILIES, Netlink
from egressguard.kernel.sets import read_counters, read_elements
from lab.hypervisor import Hypervisor
from lab.network import World

RULES = Path(__file__).resolve().parent.parent / "rules" / "egressguard.nft"
BRIDGE_RULES, LAST_LINE_RULES = RULES.with_name("bridge.nft"), RULES.with_name("last_line.nft")
# Reassembly and nothing else: what it alone keeps back, no rule has refused.
REASSEMBLY = """
table inet reassembly {
    chain tracked {
        type filter hook forward priority 0;
        ct state invalid counter
    }
}
"""


class Firewall:
    """The router's ruleset, emptied at the end."""

    def __init__(self, world: World | Hypervisor) -> None:
        self._router = world.router
        self._netlinks = {family: world.router.call(Netlink, family) for family in FAMILIES}

    def load(self, text: str, config: Path | None = None, more: str = "") -> None:
        """Puts `text`, the elements of the configuration and `more` in place of whatever was there."""
        elements = ""
        if config is not None:
            site = read_site(config)
            nothing: Sets = {name: frozenset() for name in ROUTER.configured}
            elements = plan.transaction(plan.diff(nothing, policy.desired(site.settings, site.uids)))
        self.change(f"flush ruleset\n{text}\n{elements}\n{more}\n")

    def change(self, text: str) -> None:
        """Applies an nft transaction."""
        self._router.call(nft.apply, text, "changing the lab's rules")

    def counters(self, family: str = "inet") -> Mapping[str, int]:
        """The named counters of the family's table, in packets."""
        return read_counters(self._netlinks[family])

    def elements(self, name: str, fields: Fields, family: str = "inet") -> dict[Element, int]:
        """A set's elements and their packets."""
        return read_elements(self._netlinks[family], name, fields)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._router.call(nft.apply, "flush ruleset", "emptying the lab's ruleset")
        for netlink in self._netlinks.values():
            netlink.close()
