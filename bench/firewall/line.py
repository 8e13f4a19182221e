"""A host, a router and the outside on direct wires: nothing else works for a packet on its way."""

import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab.closing import Closing
from lab.namespaces import Namespace, wait_until
from lab.network import ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB2, answers
from lab.syns import MOST_FRAMES, Address, Wire, frames

ROUTER4, OUTSIDE4 = "203.0.113.1", "203.0.113.2"
ROUTER6, OUTSIDE6 = "2001:db8:0:fe::1", "2001:db8:0:fe::2"
ACK = 0x10
FLAGS_AT = {4: 14 + 20 + 13, 6: 14 + 40 + 13}
WIRE = Wire("eth0", WEB2.mac, ROUTER_MAC["web"])


class Line(Closing):
    """host (web2's address) - router (web, wan) - outside, and a flood program, compiled once."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.host, self.router, self.outside = (
                stack.enter_context(Namespace(name)) for name in ("host", "router", "outside"))
            self._build()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="eg-bench-"))
            self._flood = Path(folder, "flood")
            subprocess.run(["cc", "-O2", "-o", self._flood, Path(__file__).with_name("flood.c")], check=True)
            self._stack = stack.pop_all()

    def _build(self) -> None:
        self.router.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        self.host.link("eth0", self.router, "web", WEB2.mac)
        self.outside.link("eth0", self.router, "wan", ROUTER_MAC["dmz"])
        self.router.ip(
            f"link set web address {ROUTER_MAC['web']}", f"address add {WEB2.ipv4_gateway}/24 dev web",
            f"address add {ROUTER4}/25 dev wan", f"route add default via {OUTSIDE4}")
        self.host.ip(f"address add {WEB2.ipv4}/24 dev eth0", f"route add default via {WEB2.ipv4_gateway}")
        self.outside.ip(f"address add {OUTSIDE4}/25 dev eth0", "route add local 203.0.113.128/25 dev lo",
                        f"route add default via {ROUTER4}")
        self.router.ip(
            f"address add {WEB2.ipv6_gateway}/64 dev web nodad", f"address add {ROUTER6}/64 dev wan nodad",
            f"route add default via {OUTSIDE6}")
        self.host.ip(f"address add {WEB2.ipv6}/64 dev eth0 nodad",
                     f"route add default via {WEB2.ipv6_gateway}")
        self.outside.ip(f"address add {OUTSIDE6}/64 dev eth0 nodad", f"address add {SOMEBODY6}/128 dev lo",
                        f"route add default via {ROUTER6}")
        for address in (SOMEBODY4, SOMEBODY6):
            wait_until(lambda to=address: self.host.call(answers, to), f"the host to reach {address}")

    def load(self, ruleset: str) -> None:
        """Puts `ruleset` in place of whatever the router had, with nft."""
        self.router.run(["nft", "flush", "ruleset"])
        self.router.run(["nft", "-f", "-"], stdin=ruleset)

    def syns(self, sources: Sequence[Address], destinations: Sequence[Address], port: int = 25
             ) -> list[bytes]:
        """Frames of SYNs, as many as there are pairs."""
        many = min(MOST_FRAMES, len(sources) * len(destinations))
        return frames(WIRE, sources, destinations, many, port)

    def send(self, made: Sequence[bytes], count: int) -> float:
        """Sends the frames in turn from the host's wire; CPU nanoseconds of the whole way, per packet."""
        done = subprocess.run(
            ["nsenter", f"--net={self.host.path}", self._flood, "eth0", str(len(made[0])), str(count)],
            input=b"".join(made), capture_output=True, check=True)
        return float(done.stdout)

    def close(self) -> None:
        """Removes everything."""
        self._stack.close()
