"""The ways out beside forwarding, as configured: bridges of virtual machines, and the last line."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from egressguard.core.errors import Mistake
from egressguard.core.hosts import Address

Network = IPv4Network | IPv6Network
INTERFACE_NAME_LENGTH = 15  # IFNAMSIZ - 1 (linux/if.h)
PERMITTED_MARK = 0x02000000
ANY = "*"


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge with machines behind some of its `ports`, and the networks that live there; every other port
    leads outside. A port may be named as `vnet*`: those that exist are meant.
    """

    name: str
    ports: tuple[str, ...]
    networks: tuple[Network, ...]

    def machine_ports(self, existing: frozenset[str]) -> frozenset[str]:
        """Those of the bridge's `existing` ports behind which machines live."""
        return frozenset(port for port in existing if any(named(pattern, port) for pattern in self.ports))


@dataclass(frozen=True, slots=True)
class LastLine:
    """The interfaces on whose way out every SMTP packet is dropped that no other rule has let pass."""

    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """The relay to which connections are led that would be refused: an address of a sender in each family."""

    relays: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Sinkhole:
    """A listener of egressguard's own for a few of each host's connections, at `port` of this router: whoever
    completes a handshake there has forged nothing.
    """

    enabled: bool = False
    port: int = 10025


def named(pattern: str, port: str) -> bool:
    """Whether `port` is meant by `pattern`, a name or the beginning of one and a star."""
    return port.startswith(pattern[:-1]) if pattern.endswith(ANY) else port == pattern


def bridge_mistakes(bridges: tuple[Bridge, ...]) -> Iterator[Mistake]:
    """What is wrong within the bridges."""
    for i, bridge in enumerate(bridges):
        yield from interface_mistakes(f"bridge.{i}.name", (bridge.name,))
        names = tuple(port.removesuffix(ANY) or ANY for port in bridge.ports)
        yield from interface_mistakes(f"bridge.{i}.ports", names)
        if not bridge.networks:
            yield Mistake(f"bridge.{i}.networks", "is empty: name the networks of its machines",
                          needs=(f"bridge.{i}.networks",))
        for j, other in enumerate(bridges[:i]):
            if bridge.name == other.name and set(bridge.ports) & set(other.ports):
                yield Mistake(f"bridge.{i}.ports", f"are those of bridge.{j} too: name each port once",
                              needs=(f"bridge.{i}.name", f"bridge.{j}.name"))


def last_line_mistakes(last_line: LastLine, inside: frozenset[str], mark: int) -> Iterator[Mistake]:
    """What is wrong with the last line, and with the mark that it looks for."""
    if last_line.interfaces:
        yield from interface_mistakes("last_line.interfaces", last_line.interfaces)
    for name in last_line.interfaces:
        if name in inside:
            yield Mistake("last_line.interfaces", f"{name} is inside: name the interfaces that lead outside")
    if mark.bit_count() != 1 or not 0 < mark < 1 << 32:
        yield Mistake("permitted_mark", f"{mark:#x} is not one bit of a packet mark: choose a power of two "
                                        "that no other rule of this machine uses, such as 0x02000000")


def redirect_mistakes(redirect: Redirect, senders: frozenset[Address], wanted_by: Iterable[str]
                      ) -> Iterator[Mistake]:
    """What is wrong with the relay; `wanted_by` are the keys that ask for it."""
    for key in wanted_by:
        if not redirect.relays:
            yield Mistake(key, "is \"redirect\", and redirect.relays names no relay to lead to",
                          needs=("redirect.relays",))
    if len({relay.version for relay in redirect.relays}) < len(redirect.relays):
        yield Mistake("redirect.relays", "names two addresses of one family: choose one")
    for relay in redirect.relays:
        if relay not in senders:
            yield Mistake("redirect.relays", f"{relay} is no [[sender]]'s address: what the relay sends "
                                             "itself would be led back to it", needs=("sender.*.addresses",))


def sinkhole_mistakes(sinkhole: Sinkhole) -> Iterator[Mistake]:
    """What is wrong with the listener."""
    if not 1024 <= sinkhole.port < 65536:
        yield Mistake("sinkhole.port", f"{sinkhole.port} is out of range: 1024 to 65535, and used by nothing")


def cgroup_mistakes(names: tuple[str, ...]) -> Iterator[Mistake]:
    """Whatever is no path of a control group must not reach nft."""
    for name in names:
        plain = re.fullmatch(r"[A-Za-z0-9@._:-]+(/[A-Za-z0-9@._:-]+){0,4}", name)
        if not plain or {".", ".."} & set(name.split("/")):
            yield Mistake("own.cgroups", f"{name!r} is no control group: write its path, of at most five "
                                         "names, as /proc/PID/cgroup ends: system.slice/postfix.service")


def interface_mistakes(key: str, names: tuple[str, ...]) -> Iterator[Mistake]:
    """Whatever is no interface name must not reach nft."""
    if not names:
        yield Mistake(key, 'is empty: name at least one interface, for example ["eth1"]', needs=(key,))
    for name in names:
        plain = name.isascii() and all(c.isalnum() or c in "._-" for c in name)
        if not (plain and 0 < len(name) <= INTERFACE_NAME_LENGTH and name not in (".", "..")):
            yield Mistake(key, f"{name!r} is no interface name: 1 to {INTERFACE_NAME_LENGTH} of "
                               "the characters a-z A-Z 0-9 . _ -, as `ip link` shows it")
        elif name == "lo":
            yield Mistake(key, "'lo' is this machine itself: name interfaces that packets come in by")
