"""What rules/egressguard.nft declares, as far as the code must know it.

An element is a tuple of its fields as text: `("dmz", "192.0.2.10")`. Configured sets are written by
egressguard and compared as a whole; counted sets are written by packets and only read.
"""

from typing import Literal

FAMILY = "inet"
TABLE = "egressguard"
VERSION_CHAIN = "ruleset_v1"  # an empty chain; another version's rules are refused, never edited
BASE_CHAINS = {"egress_forward": "forward"}

FieldType = Literal["ifname", "ipv4_addr", "ipv6_addr", "nf_proto", "inet_service"]
Element = tuple[str, ...]
Sets = dict[str, frozenset[Element]]

CONFIGURED: dict[str, tuple[FieldType, ...]] = {
    "inside_if": ("ifname",),
    "allow4": ("ifname", "ipv4_addr"),
    "allow6": ("ifname", "ipv6_addr"),
    "known4": ("ipv4_addr",),
    "known6": ("ipv6_addr",),
    "observed_family": ("nf_proto",),
    "smtp_ports": ("inet_service",),
}

# Attempts per host, and attempts per host and destination; strangers are hosts outside the inventory.
ATTEMPTS: dict[str, tuple[FieldType, ...]] = {
    "known4": ("ipv4_addr",),
    "known6": ("ipv6_addr",),
    "stranger4": ("ipv4_addr",),
    "stranger6": ("ipv6_addr",),
}
DESTINATIONS: dict[str, tuple[FieldType, ...]] = {
    "fanout4": ("ipv4_addr", "ipv4_addr"),
    "fanout6": ("ipv6_addr", "ipv6_addr"),
    "stranger_fanout4": ("ipv4_addr", "ipv4_addr"),
    "stranger_fanout6": ("ipv6_addr", "ipv6_addr"),
}

SMTP_PORTS = frozenset({("25",)})
ALL_FAMILIES = frozenset({("ipv4",), ("ipv6",)})
