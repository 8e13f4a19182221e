"""A hypervisor: virtual machines on a bridge, and an uplink among its ports, behind which the Internet is.

The machines' gateway is `outside`: nothing is routed here. Names and addresses are those of lab/network.py.
"""

from contextlib import ExitStack

from lab.closing import Closing
from lab.namespaces import Namespace, wait_until
from lab.network import (
    HOST_INTERFACE,
    INTERNET4,
    INTERNET6,
    ROUTER_MAC,
    SOMEBODY4,
    SOMEBODY6,
    WEB1,
    WEB2,
    Place,
    answers,
)

NEIGHBOURS6 = "2001:db8:0:10::/60"  # the machines' /64s: on one segment, so no gateway stands between them
BRIDGE, UPLINK = "br0", "uplink"
PORT = {WEB1.name: "vnet1", WEB2.name: "vnet2"}
MACHINES = (WEB1, WEB2)


class Hypervisor(Closing):
    """`router` is the hypervisor itself, where egressguard runs; `web1` and `web2` are its machines."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.outside, self.router, self.web1, self.web2 = (
                stack.enter_context(Namespace(name))
                for name in ("outside", "hypervisor", WEB1.name, WEB2.name)
            )
            self.router.ip(f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
                           f"link set {BRIDGE} up")
            self._plug_in_the_internet()
            for host, place in zip((self.web1, self.web2), MACHINES, strict=True):
                self.plug_in(host, place, PORT[place.name])
            self._warm()
            self._stack = stack.pop_all()

    def namespace(self, place: Place) -> Namespace:
        """The namespace of a place, such as WEB1."""
        return next(ns for ns in (self.outside, self.web1, self.web2) if ns.label == place.name)

    def bridge_calls(self, value: int) -> None:
        """Whether bridged packets meet the inet hooks as well (br_netfilter)."""
        self.router.sysctl({f"net.bridge.bridge-nf-call-{tables}": value
                            for tables in ("iptables", "ip6tables")})

    def plug_in(self, host: Namespace, place: Place, port: str) -> None:
        """A machine behind a port of the bridge."""
        host.link(HOST_INTERFACE, self.router, port, place.mac)
        self.router.ip(f"link set {port} master {BRIDGE}")
        host.ip(f"address add {place.ipv4}/{place.ipv4_length} dev {HOST_INTERFACE}",
                f"address add {place.ipv6}/64 dev {HOST_INTERFACE} nodad",
                f"route add default via {place.ipv4_gateway}", f"route add ::/0 via {place.ipv6_gateway}",
                f"route add {NEIGHBOURS6} dev {HOST_INTERFACE}")

    def _plug_in_the_internet(self) -> None:
        self.outside.link(HOST_INTERFACE, self.router, UPLINK, ROUTER_MAC["web"])
        self.router.ip(f"link set {UPLINK} master {BRIDGE}")
        self.outside.ip(
            f"address add {WEB1.ipv4_gateway}/{WEB1.ipv4_length} dev {HOST_INTERFACE}",
            *(f"address add {place.ipv6_gateway}/64 dev {HOST_INTERFACE} nodad" for place in MACHINES),
            f"route add local {INTERNET4} dev lo",
            f"route add local {INTERNET6} dev lo",
        )

    def _warm(self) -> None:
        """Resolves every neighbour, so that the bridge knows where everybody is and floods nothing."""
        for host in (self.web1, self.web2):
            for address in (SOMEBODY4, SOMEBODY6):
                wait_until(lambda host=host, address=address: host.call(answers, address),  # type: ignore[misc]
                           f"{host.label} to reach {address}")

    def close(self) -> None:
        """Ends every process here and removes every namespace."""
        self._stack.close()
