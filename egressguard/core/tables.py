"""The tables that rules/ makes: one for what is routed, and two more where they are configured.

Each is a file of its own and a table of the same name, so that a family tells them apart. Sets of one
name mean the same in each of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from egressguard.core.ruleset import (
    ATTEMPT_MACS,
    CONFIGURED,
    COUNTED,
    DESTINATIONS,
    FAMILY,
    FLOODS,
    INVENTORY,
    LEASED,
    PROVED,
    SENDER_MACS,
    STRANGERS,
    TRANSIT,
    TRANSIT_IF,
    VERSION_CHAIN,
    Fields,
)

Specs = Mapping[str, Fields]
ETHER_FAMILIES = frozenset({("ip",), ("ip6",)})


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its family, its file in rules/, the empty chain that names its version, and its sets: those
    that are configured, those that are leased, and those in which packets are counted.
    """

    family: str
    file: str
    version_chain: str
    configured: Specs
    leased: Specs = field(default_factory=dict)
    inventory: Specs = field(default_factory=dict)
    strangers: Specs = field(default_factory=dict)
    destinations: Specs = field(default_factory=dict)
    attempt_macs: Specs = field(default_factory=dict)
    sender_macs: Specs = field(default_factory=dict)
    counted: Specs = field(default_factory=dict)
    remembered: Specs = field(default_factory=dict)
    transit: Specs = field(default_factory=dict)
    transit_if: Specs = field(default_factory=dict)

    def older(self, chains: Iterable[str]) -> bool:
        """Whether `chains` are those of an earlier version of this table: what an upgrade finds."""
        return any(number < 0 for number in self._versions(chains))

    def later(self, chains: Iterable[str]) -> bool:
        """Whether they are those of a later version: what a downgrade finds."""
        return any(number > 0 for number in self._versions(chains))

    def _versions(self, chains: Iterable[str]) -> Iterator[int]:
        """The versions that `chains` name, relative to ours."""
        stem, _, ours = self.version_chain.rpartition("_v")
        for chain in chains:
            number = chain.removeprefix(f"{stem}_v")
            if chain != number and number.isdigit():
                yield int(number) - int(ours)

    def fields(self, name: str) -> Fields:
        """What an element of the set consists of."""
        return self.configured.get(name) or self.leased.get(name) or self.written[name]

    @property
    def written(self) -> Specs:
        """The sets that only packets write; their elements have a timeout, which is the set's."""
        counted = {name: fields for name, fields in self.counted.items() if name not in self.configured}
        return {**self.strangers, **self.destinations, **self.attempt_macs, **self.sender_macs, **counted,
                **self.remembered, **self.transit, **self.transit_if}


ROUTER = Table(FAMILY, "egressguard.nft", VERSION_CHAIN, CONFIGURED, LEASED, INVENTORY, STRANGERS,
               DESTINATIONS, ATTEMPT_MACS, SENDER_MACS, COUNTED, {**FLOODS, **PROVED}, TRANSIT, TRANSIT_IF)

# The bridge family names protocols by their Ethernet types. Answers are no matter of it, nor is this machine.
_HOMES: dict[str, Fields] = {
    "home4": ("ifname", "ipv4_net"),
    "home6": ("ifname", "ipv6_net"),
    "other_port": ("ifname",),
    "observed_family": ("ether_type",),
    **dict.fromkeys(("enforced_net4", "observed_net4"), ("ether_type", "ipv4_net")),
    **dict.fromkeys(("enforced_net6", "observed_net6"), ("ether_type", "ipv6_net")),
}
_KNOWN: dict[str, Fields] = {"known4": ("ipv4_addr",), "known6": ("ipv6_addr",)}
_SHARED = ("smtp_ports", "tunnel_protocols", "blocked_ports", "allow4", "allow6", "allow_mac4",
           "allow_mac6", "inside_if", "group_enforce4", "group_enforce6", "group_observe4", "group_observe6",
           "count_only4", "count_only6", "counted4", "counted6")
BRIDGE = Table("bridge", "bridge.nft", "bridge_v1",
               {**{name: CONFIGURED[name] for name in _SHARED}, **_KNOWN, **_HOMES},
               {**LEASED, "opened_family": ("ether_type",)}, _KNOWN, STRANGERS, DESTINATIONS,
               ATTEMPT_MACS, SENDER_MACS, COUNTED)

LAST_LINE = Table("netdev", "last_line.nft", "last_line_v1", {
    "own_mac": ("ifname", "ether_addr"), "any_mac": ("ifname",),
    "blocked_ports": CONFIGURED["blocked_ports"]})

TABLES = (ROUTER, BRIDGE, LAST_LINE)
