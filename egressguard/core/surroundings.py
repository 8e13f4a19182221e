"""What lies around the rules: everything outside them that can lead a packet past them, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from egressguard.core.canary import Run
from egressguard.core.foreign_rules import Foreign
from egressguard.core.routes import Route
from egressguard.core.settings import Settings

TUNNELS = frozenset({"ipip", "sit", "ip6tnl", "gre", "gretap", "ip6gre", "ip6gretap", "erspan", "vti", "vti6",
                     "xfrm", "wireguard", "vxlan", "geneve", "tun", "ppp", "amt", "bareudp"})
PASSING = frozenset({"macvlan", "macvtap", "ipvlan", "ipvtap", "openvswitch"})


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: what made it (empty for hardware), the bridge or bond that it is a port of, the families
    whose default route, or as good as one (`core.routes`), leaves by it, and its global addresses.
    """

    name: str
    kind: str = ""
    up: bool = True
    master: str = ""
    default_route: frozenset[int] = frozenset()
    addresses: tuple[str, ...] = ()
    xdp: bool = False
    filtered: bool = False  # has a clsact or ingress qdisc


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One reading. `own_hooks` maps our base chains to their hook, None when the table is not loaded;
    `beside` the same by family for our other tables that are loaded; the last line stands on `last_line_on`;
    `sysctl` holds the keys under /proc/sys/net that exist; `legacy` are the tables of iptables-legacy;
    `no_owner` is why a table can have no owner here; `routes` are those by inside interfaces; `ways` maps the
    senders' addresses that a route leads to, to its interface; `own` are this machine's addresses.
    """

    settings: Settings
    own_hooks: Mapping[str, str] | None
    dormant: bool = False
    links: tuple[Link, ...] = ()
    foreign: Foreign = field(default_factory=Foreign)
    sysctl: Mapping[str, str] = field(default_factory=dict)
    legacy: tuple[str, ...] = ()
    kernel: tuple[int, ...] = (0, 0)
    nft: tuple[int, ...] = (0, 0)
    canary: Run | None = None
    beside: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    last_line_on: frozenset[str] = frozenset()
    no_owner: str = ""
    routes: tuple[Route, ...] = ()
    ways: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    def inside(self) -> list[Link]:
        """The inside interfaces that exist."""
        names = self.settings.inside_interfaces()
        return [link for link in self.links if link.name in names]

    def outside(self) -> list[Link]:
        """All others, but the loopback."""
        names = self.settings.inside_interfaces() | {"lo"}
        return [link for link in self.links if link.name not in names]

    def number(self, key: str, default: int = 0) -> int:
        """A sysctl as a number."""
        text = self.sysctl.get(key, "")
        return int(text) if text.lstrip("-").isdigit() else default
