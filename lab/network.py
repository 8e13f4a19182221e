"""The lab's world: web servers and mail hosts behind one router, and an Internet that answers.

Documentation addresses only (RFC 5737, RFC 3849, RFC 7042). Every inside host has a /64 of its
own, because that is what a host is judged by in IPv6.
"""

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from lab.closing import Closing
from lab.namespaces import Namespace, wait_until

MAC = "00:00:5e:00:53:{:02x}"
HOST_INTERFACE = "eth0"
UNUSED_PORT = 9


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


def _dmz(name: str, last: int, subnet: str) -> Place:
    six = f"2001:db8:0:{subnet}::"
    return Place(name, "dmz", f"192.0.2.{last}", 26, "192.0.2.1", six + "2", six + "1", MAC.format(last))


def _web(name: str, last: int) -> Place:
    six = f"2001:db8:0:{last}::"
    four = f"198.51.100.{last}"
    return Place(name, "web", four, 24, "198.51.100.1", six + "2", six + "1", MAC.format(last))


RELAY = _dmz("relay", 10, "a")
MAILSERVER = _dmz("mailserver", 20, "b")
WEB1 = _web("web1", 11)  # healthy
WEB2 = _web("web2", 12)  # compromised
INSIDE = (RELAY, MAILSERVER, WEB1, WEB2)
OUTSIDE = Place(
    "outside", "wan", "203.0.113.2", 25, "203.0.113.1", "2001:db8:fffe::2", "2001:db8:fffe::1",
    MAC.format(2),
)  # fmt: skip

# Every address of these answers in `outside`: as many destinations as a fan-out needs.
INTERNET4 = "203.0.113.128/25"
INTERNET6 = "2001:db8:ffff::/64"
SOMEBODY4 = "203.0.113.130"
SOMEBODY6 = "2001:db8:ffff::130"

SEGMENTS = ("dmz", "web")
ROUTER_MAC = {"dmz": MAC.format(0xD0), "web": MAC.format(0xE0), "wan": MAC.format(0xF0)}


class World(Closing):
    """The six namespaces and their wires: outside, router, switch, relay, mailserver, web1, web2.

    Built, and warm in both families, when the constructor returns; close() leaves nothing behind.
    """

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.outside, self.router, self.switch = (
                stack.enter_context(Namespace(name)) for name in ("outside", "router", "switch")
            )
            self.relay, self.mailserver, self.web1, self.web2 = self.inside = tuple(
                stack.enter_context(Namespace(place.name)) for place in INSIDE
            )
            self._build_segments()
            self._build_internet()
            for host, place in zip(self.inside, INSIDE, strict=True):
                self._plug_in(host, place)
            self._warm()
            self._stack = stack.pop_all()

    def namespace(self, place: Place) -> Namespace:
        """The namespace of a place, such as WEB1."""
        return next(ns for ns in (self.outside, *self.inside) if ns.label == place.name)

    def _build_segments(self) -> None:
        self.router.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        for segment in SEGMENTS:
            # Snooping would drop neighbour solicitations until it has seen reports.
            self.switch.ip(
                f"link add br-{segment} type bridge forward_delay 0 mcast_snooping 0",
                f"link set br-{segment} up",
            )
            self.router.link(segment, self.switch, f"{segment}-router", ROUTER_MAC[segment])
            self.switch.ip(f"link set {segment}-router master br-{segment}")
            self.router.ip(*_gateway_addresses(segment))

    def _build_internet(self) -> None:
        self.outside.link(HOST_INTERFACE, self.router, "wan", OUTSIDE.mac)
        self.router.ip(
            f"link set wan address {ROUTER_MAC['wan']}",
            f"address add {OUTSIDE.ipv4_gateway}/{OUTSIDE.ipv4_length} dev wan",
            f"address add {OUTSIDE.ipv6_gateway}/64 dev wan nodad",
            f"route add default via {OUTSIDE.ipv4}",
            f"route add ::/0 via {OUTSIDE.ipv6}",
        )
        self.outside.ip(
            *_host_addresses(OUTSIDE),
            f"route add local {INTERNET4} dev lo",
            f"route add local {INTERNET6} dev lo",
        )

    def _plug_in(self, host: Namespace, place: Place) -> None:
        host.link(HOST_INTERFACE, self.switch, place.name, place.mac)
        self.switch.ip(f"link set {place.name} master br-{place.segment}")
        host.ip(*_host_addresses(place))

    def _warm(self) -> None:
        """Resolves every neighbour, so that no test loses its first packet to ARP or ND."""
        for host in self.inside:
            for address in (SOMEBODY4, SOMEBODY6):
                wait_until(
                    lambda host=host, address=address: host.call(answers, address),  # type: ignore[misc]
                    f"{host.label} to reach {address}",
                )

    def close(self) -> None:
        """Ends every process in the world and removes every namespace."""
        self._stack.close()


def answers(address: str, port: int = UNUSED_PORT, timeout_s: float = 1.0) -> bool:
    """Whether the address answers a TCP connection, be it with a reset."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def _gateway_addresses(segment: str) -> list[str]:
    here = [place for place in INSIDE if place.segment == segment]
    four = f"address add {here[0].ipv4_gateway}/{here[0].ipv4_length} dev {segment}"
    return [four, *(f"address add {p.ipv6_gateway}/64 dev {segment} nodad" for p in here)]


def _host_addresses(place: Place) -> list[str]:
    return [
        f"address add {place.ipv4}/{place.ipv4_length} dev {HOST_INTERFACE}",
        f"address add {place.ipv6}/64 dev {HOST_INTERFACE} nodad",
        f"route add default via {place.ipv4_gateway}",
        f"route add ::/0 via {place.ipv6_gateway}",
    ]
