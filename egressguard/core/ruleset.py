"""What rules/egressguard.nft declares, as far as the code must know it.

An element is a tuple of its fields as text: `("dmz", "192.0.2.10")`. Configured sets are written by
egressguard and compared as a whole; leases as well, with the time that is left; counted sets are written
by packets and only read.
"""

from typing import Literal

from egressguard.core.shards import NAMES

FAMILY = "inet"
TABLE = "egressguard"
VERSION_CHAIN = "ruleset_v2"  # an empty chain; a later version's rules are refused, an earlier one's replaced

FieldType = Literal["ifname", "ipv4_addr", "ipv6_addr", "ipv4_net", "ipv6_net", "ether_addr", "nf_proto",
                    "ether_type", "inet_service", "inet_proto", "uid", "iface_index", "cgroup"]
Fields = tuple[FieldType, ...]
Element = tuple[str, ...]
Sets = dict[str, frozenset[Element]]
Leases = dict[str, dict[Element, float]]

# Filled by the rules files and by nobody else: which of the inventory's sets an address belongs to, and what
# can hide a packet on a bridge.
CONSTANTS = ("shard4", "shard6", "tag_types", "plain_types", "tunnel_types")

# Attempts per host of the inventory, each in the set that its address chooses.
INVENTORY: dict[str, Fields] = {
    **dict.fromkeys(NAMES[4], ("ipv4_addr",)),
    **dict.fromkeys(NAMES[6], ("ipv6_addr",)),
}

# In this order they are changed: let the permitted through before closing, close last.
CONFIGURED: dict[str, Fields] = {
    "smtp_ports": ("inet_service",),
    "tunnel_protocols": ("inet_proto",),
    "blocked_ports": ("inet_service",),
    **INVENTORY,
    "allow4": ("ifname", "ipv4_addr"),
    "allow6": ("ifname", "ipv6_addr"),
    "allow_mac4": ("ifname", "ipv4_addr", "ether_addr"),
    "allow_mac6": ("ifname", "ipv6_addr", "ether_addr"),
    "own_uid": ("uid",),
    "own_to4": ("ipv4_addr",),
    "own_to6": ("ipv6_addr",),
    "inside_if": ("ifname",),
    "shared_if": ("ifname",),
    "bridged_if": ("ifname",),
    "answer_drop": ("nf_proto",),
    "answer_prohibit": ("nf_proto",),
    "group_enforce4": ("inet_service", "ipv4_net"),
    "group_enforce6": ("inet_service", "ipv6_net"),
    "group_observe4": ("inet_service", "ipv4_net"),
    "group_observe6": ("inet_service", "ipv6_net"),
    "enforced_net4": ("nf_proto", "ipv4_net"),
    "enforced_net6": ("nf_proto", "ipv6_net"),
    "observed_net4": ("nf_proto", "ipv4_net"),
    "observed_net6": ("nf_proto", "ipv6_net"),
    "count_only4": ("inet_service", "ipv4_net"),
    "count_only6": ("inet_service", "ipv6_net"),
    "counted4": ("ipv4_addr",),
    "counted6": ("ipv6_addr",),
    "guarded_output": ("nf_proto",),
    "observed_family": ("nf_proto",),
}

# Those of rules/redirect.nft, which is loaded into the same table where it is configured.
REDIRECT: dict[str, Fields] = {
    "inside_net4": ("inet_service", "ipv4_net"),
    "inside_net6": ("inet_service", "ipv6_net"),
    "relay_if": ("ifname",),
    "redirect4": ("inet_service", "ipv4_net"),
    "redirect6": ("inet_service", "ipv6_net"),
    "sinkhole_family": ("nf_proto",),
}
CONFIGURED |= REDIRECT | {"own_cgroup": ("cgroup",)}  # of rules/own_cgroup.nft, likewise

LEASED: dict[str, Fields] = {
    "exception4": ("ifname", "ipv4_addr"),
    "exception6": ("ifname", "ipv6_addr"),
    "exception_to4": ("ifname", "ipv4_addr", "ipv4_addr"),
    "exception_to6": ("ifname", "ipv6_addr", "ipv6_addr"),
    "quarantine4": ("ipv4_addr",),
    "quarantine6": ("ipv6_addr",),
    "opened_family": ("nf_proto",),
}

# Attempts per host outside the inventory, and attempts per host and destination.
STRANGERS: dict[str, Fields] = {
    "stranger4": ("ipv4_addr",),
    "stranger6": ("ipv6_addr",),
}
# SYNs per host to ports that are only counted: the inventory's, which are configured, and strangers'.
COUNTED: dict[str, Fields] = {
    "counted4": ("ipv4_addr",),
    "counted6": ("ipv6_addr",),
    "counted_stranger4": ("ipv4_addr",),
    "counted_stranger6": ("ipv6_addr",),
}
STRANGER_LIFETIME_S = 3600.0  # the timeouts in rules/: an element that was not seen for so long is gone
DESTINATION_LIFETIME_S = 600.0
DESTINATIONS: dict[str, Fields] = {
    "fanout4": ("ipv4_addr", "ipv4_addr"),
    "fanout6": ("ipv6_addr", "ipv6_addr"),
    "stranger_fanout4": ("ipv4_addr", "ipv4_addr"),
    "stranger_fanout6": ("ipv6_addr", "ipv6_addr"),
}
ATTEMPT_MACS: dict[str, Fields] = {
    "attempt_mac4": ("ipv4_addr", "ether_addr"),
    "attempt_mac6": ("ipv6_addr", "ether_addr"),
    "stranger_mac4": ("ipv4_addr", "ether_addr"),
    "stranger_mac6": ("ipv6_addr", "ether_addr"),
}
# Attempts from interfaces that are not inside: by interface, and by interface and host.
TRANSIT_IF: dict[str, Fields] = {"transit_if": ("ifname",)}
TRANSIT: dict[str, Fields] = {
    "transit4": ("ifname", "ipv4_addr"),
    "transit6": ("ifname", "ipv6_addr"),
}
# What the rules refuse without a second look; nobody reads them but to see whether somebody has written them.
FLOODS: dict[str, Fields] = {
    "flood4": ("iface_index", "ether_addr", "ipv4_addr", "ipv4_addr"),
    "flood6": ("iface_index", "ether_addr", "ipv6_addr", "ipv6_addr"),
}
PROVED: dict[str, Fields] = {  # of rules/redirect.nft: who was led to the sinkhole lately
    "proved4": ("ipv4_addr",),
    "proved6": ("ipv6_addr",),
}
SENDER_MACS: dict[str, Fields] = {
    "sender_mac4": ("ipv4_addr", "ether_addr"),
    "sender_mac6": ("ipv6_addr", "ether_addr"),
}

SMTP = "25"
SMTP_PORTS = frozenset({(SMTP,)})
# IP in IP, IPv6 in IP, GRE, ESP, AH, older ways of IP in IP, EtherIP, IPComp, L2TP, SCTP, mobility,
# MPLS in IP, HIP, shim6, Ethernet (RFC 8986): what can hide TCP. UDP can too, but is too common to say much.
TUNNEL_PROTOCOLS = frozenset({(n,) for n in (
    "4", "41", "47", "50", "51", "94", "97", "98", "108", "115", "132", "135", "137", "139", "140", "143")})
ALL_FAMILIES = frozenset({("ipv4",), ("ipv6",)})
