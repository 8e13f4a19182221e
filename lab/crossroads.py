"""A router that boots, between a web server that tries port 25 all the time and an outside that listens.

The wires are there and down on the router's side: the router's own network scripts bring them up.
"""


from lab.closing import Closing
from lab.debian import Disk, Machine
from lab.namespaces import Namespace
from lab.network import HOST_INTERFACE
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire
from lab.topology import (
    INTERNET4,
    INTERNET6,
    OUTSIDE,
    ROUTER_MAC,
    SOMEBODY4,
    SOMEBODY6,
    WAN,
    WEB1,
    host_commands,
)

INTERFACES = f"""
auto lo
iface lo inet loopback

auto {WAN}
iface {WAN} inet static
    address {OUTSIDE.ipv4_gateway}/{OUTSIDE.ipv4_length}
    gateway {OUTSIDE.ipv4}
    metric 100
    up ip address add {OUTSIDE.ipv6_gateway}/64 dev {WAN} nodad
    up ip route add ::/0 via {OUTSIDE.ipv6}

auto {WEB1.segment}
iface {WEB1.segment} inet static
    address {WEB1.ipv4_gateway}/{WEB1.ipv4_length}
    up ip address add {WEB1.ipv6_gateway}/64 dev {WEB1.segment} nodad
"""
FORWARDING = "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n"
OTHER_PORT = 26


class Crossroads(Closing):
    """One boot of `disk` as the router, and what stands around it; two sniffers beyond its WAN interface.

    `smtp` counts what must not come, SYNs to port 25; `other` counts what must, SYNs to another port: they
    prove that the way was open.
    """

    def __init__(self, disk: Disk, *, per_second: float = 200.0) -> None:
        self.outside, self.web, self.router = (Namespace(n) for n in ("outside", "web1", "router"))
        _wire(self.outside, OUTSIDE.mac, self.router, WAN)
        _wire(self.web, WEB1.mac, self.router, WEB1.segment)
        self.outside.ip(*host_commands(OUTSIDE, HOST_INTERFACE), f"route add local {INTERNET4} dev lo",
                        f"route add local {INTERNET6} dev lo")
        self.web.ip(*host_commands(WEB1, HOST_INTERFACE))
        self.smtp = CountingSniffer(self.outside, HOST_INTERFACE, port=25)
        self.other = CountingSniffer(self.outside, HOST_INTERFACE, port=OTHER_PORT)
        self._sources = [self._source(family, port, per_second) for family in (4, 6)
                         for port in (25, OTHER_PORT)] if per_second else []
        for source in self._sources:  # the first link that comes up is under attack
            source.wait_until_begun()
        self.machine = Machine(disk, self.router)

    def _source(self, family: int, port: int, per_second: float) -> SynSource:
        return SynSource(
            self.web, Wire(HOST_INTERFACE, WEB1.mac, ROUTER_MAC[WEB1.segment]), port=port, seconds=600,
            sources=[WEB1.ipv4 if family == 4 else WEB1.ipv6], count=10_000_000, per_second=per_second,
            destinations=[SOMEBODY4 if family == 4 else SOMEBODY6])

    def wait_for_traffic(self, more: int = 100) -> None:
        """Returns when so many more SYNs to the other port have passed."""
        self.other.wait_for(self.other.count() + more, timeout_s=120)

    def quiet(self) -> None:
        """Ends the web server's tries."""
        for source in self._sources:
            source.stop()
        self._sources.clear()

    def leaked(self) -> int:
        """How many SYNs to port 25 got out, once all that were under way have arrived."""
        self.quiet()
        return self.smtp.stop()

    def close(self) -> None:
        """Pulls the plug, and removes everything."""
        self.machine.close()
        for sniffer in (self.smtp, self.other):
            sniffer.close()
        for namespace in (self.web, self.outside, self.router):
            namespace.close()


def prepare(disk: Disk) -> None:
    """The network's configuration of a machine that is off."""
    disk.write("/etc/network/interfaces", INTERFACES)
    disk.write("/etc/sysctl.d/forwarding.conf", FORWARDING)


def _wire(host: Namespace, mac: str, router: Namespace, interface: str) -> None:
    host.ip(f"link add {HOST_INTERFACE} address {mac} type veth peer name {interface} netns {router.name}",
            f"link set {HOST_INTERFACE} up")
    router.ip(f"link set {interface} address {ROUTER_MAC[interface]}")


