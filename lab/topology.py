"""Who is where in the lab, read from topology.json: the Vagrantfile's machines and the namespaces alike.

Documentation addresses only (RFC 5737, RFC 3849, RFC 7042). Every inside host has a /64 of its
own, because that is what a host is judged by in IPv6. A gateway is the first address of its network.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from pathlib import Path

TOPOLOGY = json.loads(Path(__file__).with_name("topology.json").read_text("utf-8"))
EVERYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Place:
    """Where a host is: its segment (the router's interface), addresses, gateways and MAC."""

    name: str
    segment: str
    ipv4: str
    ipv4_length: int
    ipv4_gateway: str
    ipv6: str
    ipv6_gateway: str
    mac: str

    @property
    def addresses(self) -> tuple[str, str]:
        """IPv4, IPv6."""
        return self.ipv4, self.ipv6


def _place(name: str) -> Place:
    host = TOPOLOGY["hosts"][name]
    four = ip_network(TOPOLOGY["segments"][host["segment"]]["network"])
    six = ip_interface(f"{host['ipv6']}/64").network
    return Place(name, host["segment"], host["ipv4"], four.prefixlen, str(four[1]), host["ipv6"], str(six[1]),
                 host["mac"])


RELAY = _place("relay")
MAILSERVER = _place("mailserver")
WEB1 = _place("web1")  # healthy
WEB2 = _place("web2")  # compromised
INSIDE = (RELAY, MAILSERVER, WEB1, WEB2)
OUTSIDE = _place("outside")
WAN = OUTSIDE.segment
SEGMENTS = tuple(name for name in TOPOLOGY["segments"] if name != WAN)
ROUTER_MAC = {name: segment["router_mac"] for name, segment in TOPOLOGY["segments"].items()}

# Every address of these answers in `outside`: as many destinations as a fan-out needs.
INTERNET4 = TOPOLOGY["internet"]["ipv4"]
INTERNET6 = TOPOLOGY["internet"]["ipv6"]
# Somebody is the first of those that a bot tries: 203.0.113.130, 2001:db8:ffff::130, and the next ones.
PREFIXES = ("203.0.113.", "2001:db8:ffff::")
FIRST = 130
SOMEBODY4, SOMEBODY6 = (f"{prefix}{FIRST}" for prefix in PREFIXES)


def host_commands(place: Place, interface: str, to: Sequence[str] = EVERYWHERE) -> list[str]:
    """`ip` commands for a host: its addresses, and the way to `to` through its gateways."""
    return [f"address replace {place.ipv4}/{place.ipv4_length} dev {interface}",
            f"address replace {place.ipv6}/64 dev {interface} nodad",
            *_routes(to, place.ipv4_gateway, place.ipv6_gateway)]


def gateway_commands(segment: str) -> list[str]:
    """`ip` commands for the router: the gateway's addresses of everyone in `segment`."""
    here = [place for place in (*INSIDE, OUTSIDE) if place.segment == segment]
    four = f"address replace {here[0].ipv4_gateway}/{here[0].ipv4_length} dev {segment}"
    return [four, *(f"address replace {p.ipv6_gateway}/64 dev {segment} nodad" for p in here)]


def uplink_commands(to: Sequence[str] = EVERYWHERE) -> list[str]:
    """`ip` commands for the router: the way to the outside."""
    return _routes(to, OUTSIDE.ipv4, OUTSIDE.ipv6)


def internet_commands() -> list[str]:
    """`ip` commands for `outside`, which is every address of the Internet."""
    return [f"route replace local {network} dev lo" for network in (INTERNET4, INTERNET6)]


def _routes(to: Sequence[str], via4: str, via6: str) -> list[str]:
    return [f"route replace {network} via {via6 if ':' in network else via4}" for network in to]
