"""The lab's world in namespaces: web and mail hosts behind one router, and an Internet that answers."""

import socket
from contextlib import ExitStack

from lab.closing import Closing
from lab.namespaces import Namespace, wait_until
from lab.topology import (
    INSIDE,
    INTERNET4,
    INTERNET6,
    MAILSERVER,
    OUTSIDE,
    RELAY,
    ROUTER_MAC,
    SEGMENTS,
    SOMEBODY4,
    SOMEBODY6,
    WAN,
    WEB1,
    WEB2,
    Place,
    gateway_commands,
    host_commands,
    internet_commands,
    uplink_commands,
)

HOST_INTERFACE = "eth0"
UNUSED_PORT = 9


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
            self.router.ip(*gateway_commands(segment))

    def _build_internet(self) -> None:
        self.outside.link(HOST_INTERFACE, self.router, WAN, OUTSIDE.mac)
        self.router.ip(f"link set {WAN} address {ROUTER_MAC[WAN]}",
                       *gateway_commands(WAN), *uplink_commands())
        self.outside.ip(*host_commands(OUTSIDE, HOST_INTERFACE), *internet_commands())

    def _plug_in(self, host: Namespace, place: Place) -> None:
        host.link(HOST_INTERFACE, self.switch, place.name, place.mac)
        self.switch.ip(f"link set {place.name} master br-{place.segment}")
        host.ip(*host_commands(place, HOST_INTERFACE))

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


__all__ = [
    "HOST_INTERFACE", "INSIDE", "INTERNET4", "INTERNET6", "MAILSERVER", "OUTSIDE", "RELAY", "ROUTER_MAC",
    "SOMEBODY4", "SOMEBODY6", "WEB1", "WEB2", "Place", "World", "answers",
]
