"""SYNs that may not leave, from many hosts at once, for as long as something is done to the router's rules.

Two streams, since the rules refuse in two places. One host's few destinations are refused in `egress_early`,
where a flood is remembered. Many pairs of host and destination, each seldomer than it is remembered, are all
refused in `egress_forward`. A table of somebody else's, right before that, counts what came so far.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lab.network import ROUTER_MAC, WEB2, World
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire

WIRE = Wire("eth0", WEB2.mac, ROUTER_MAC["web"])
FEW = {4: "203.0.113.128/28", 6: "2001:db8:ffff::/124"}
MANY = {4: "203.0.113.128/25", 6: "2001:db8:ffff::/121"}
# Beside some of web2's segment, networks that are routed through it: no answer needs a neighbour of its own.
# (192.0.2.254 is the canary's, whose attempts are nobody's.)
HOSTS = {4: ("198.51.100.128/26", "198.51.100.192/27", "192.0.2.128/26", "192.0.2.192/27"),
         6: ("2001:db8:8000::/56/64",)}
ROUTED = {4: f"192.0.2.128/25 via {WEB2.ipv4}", 6: f"2001:db8:8000::/56 via {WEB2.ipv6}"}
MOST_PER_SECOND = 10_000  # of 24,000 pairs of host and destination: none comes twice within a second
WITNESS = """table inet witness {
    counter reached { }
    chain before {
        type filter hook forward priority filter - 11
        iifname "web" tcp dport 25 tcp flags & (fin|syn|rst|ack) == syn counter name reached
    }
}
"""


@dataclass(frozen=True)
class Sent:
    """SYNs of web2 to its few destinations (`few`) and of all hosts to many (`many`); how many of all reached
    the forward hook, and how many arrived outside.
    """

    few: int
    many: int
    reached: int
    leaked: int
    per_second: float

    @property
    def all(self) -> int:
        """Of both streams."""
        return self.few + self.many

    @property
    def early(self) -> int:
        """How many were refused before the forward hook."""
        return self.all - self.reached


class Probes:
    """The streams, running while the `with` block lasts; `sent` stands afterwards.

    `few_per_second` of 0 means as fast as they can be made.
    """

    def __init__(self, world: World, family: int, few_per_second: float, many_per_second: float) -> None:
        self._world, self._family = world, family
        self._rates = few_per_second, min(many_per_second, MOST_PER_SECOND)
        self.sent = Sent(0, 0, 0, 0, 0.0)

    def __enter__(self) -> Self:
        self._world.router.ip(f"route add {ROUTED[self._family]}")
        self._world.router.run(["nft", "-f", "-"], stdin=WITNESS)
        self._beyond = CountingSniffer(self._world.outside, "eth0", port=25)
        hosts = [WEB2.addresses[self._family == 6]], HOSTS[self._family]
        self._streams = [SynSource(self._world.web2, WIRE, sources=sources, destinations=[to[self._family]],
                                   count=10**9, per_second=rate, seconds=900)
                         for sources, to, rate in zip(hosts, (FEW, MANY), self._rates, strict=True)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        few, many = (stream.stop() for stream in self._streams)
        leaked = self._beyond.stop()
        rate = sum(stream.per_second for stream in self._streams)
        self.sent = Sent(few, many, self._reached(), leaked, rate)

    def _reached(self) -> int:
        text = self._world.router.run(["nft", "list", "counter", "inet", "witness", "reached"]).stdout
        return int(text.partition("packets ")[2].split()[0])
