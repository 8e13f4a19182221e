"""The router's configuration as frozen values, and the mistakes that only show in the whole.

`egressguard.config` reads a file into `Settings`; every field name is the key in that file.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Literal

from egressguard.core.errors import Mistake
from egressguard.core.exchange_url import url_mistakes
from egressguard.core.hosts import Address, Host, host_of, hosts_of
from egressguard.core.metrics_place import place_mistakes
from egressguard.core.notify_settings import Notify, notify_mistakes
from egressguard.core.path_settings import (
    PERMITTED_MARK,
    Bridge,
    LastLine,
    Network,
    Redirect,
    Sinkhole,
    bridge_mistakes,
    cgroup_mistakes,
    interface_mistakes,
    last_line_mistakes,
    redirect_mistakes,
    sinkhole_mistakes,
)

Mode = Literal["observe", "enforce"]
Answer = Literal["reset", "drop", "prohibit", "redirect"]
SMTP_PORT = 25


@dataclass(frozen=True, slots=True)
class Inside:
    """Interfaces behind which hosts live, and the networks that live there."""

    interfaces: tuple[str, ...]
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """A named inside machine of the inventory; its counters exist before its first attempt."""

    name: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Sender(Machine):
    """A host that may speak SMTP to the outside; its interfaces follow from the inside networks.

    With a `mac`, its addresses are worth nothing behind another one. On a bridge it may be tied to `ports`;
    otherwise it is a sender behind every port of a machine.
    """

    mac: str | None = None
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts that differ from the site: in mode, in ports beside 25 that are shut or counted for them, or in
    that their connections are led to the relay.
    """

    name: str
    networks: tuple[Network, ...]
    mode: Mode | None = None
    also_block: tuple[int, ...] = ()
    also_count: tuple[int, ...] = ()
    answer: Literal["redirect"] | None = None


@dataclass(frozen=True, slots=True)
class Own:
    """The router's own connections: judged too when `guard` is on, except those of `users` and of `cgroups`
    (paths below the root of cgroup v2), and those towards `relays`.
    """

    guard: bool = False
    users: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    relays: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Canary:
    """The canary: from which addresses, that nobody else has, it tries to reach which, that nobody may.

    The daemon sends it every `period_s` when it is `enabled`; `doctor` sends it in any case.
    """

    enabled: bool = False
    period_s: float = 60.0
    addresses: tuple[Address, ...] = (IPv4Address("192.0.2.254"), IPv6Address("2001:db8:0:ca::2"))
    destinations: tuple[Address, ...] = (IPv4Address("203.0.113.254"), IPv6Address("2001:db8:ffff:ca::2"))


@dataclass(frozen=True, slots=True)
class Detection:
    """How evidence becomes a verdict (core/detection.py explains the test).

    `false_alarm` and `missed` are the error rates α and β of `compromised`;
    `suspect_false_alarm` is the α of `suspect`, `hold_false_alarm` that of a proposal to hold or quarantine.
    A score halves every `half_life_s`.
    """

    false_alarm: float = 0.001
    suspect_false_alarm: float = 0.05
    hold_false_alarm: float = 0.00001
    missed: float = 0.01
    new_destination_if_spambot: float = 0.9
    new_destination_if_benign: float = 0.2
    half_life_s: float = 7200.0


@dataclass(frozen=True, slots=True)
class Settings:
    """One router's configuration.

    With `table_owner` nobody else can change the tables while the daemon runs.
    """

    inside: tuple[Inside, ...] = ()
    router: str = "router"
    mode: Mode = "enforce"
    sender: tuple[Sender, ...] = ()
    host: tuple[Machine, ...] = ()
    group: tuple[Group, ...] = ()
    own: Own = field(default_factory=Own)
    bridge: tuple[Bridge, ...] = ()
    last_line: LastLine = field(default_factory=LastLine)
    redirect: Redirect = field(default_factory=Redirect)
    sinkhole: Sinkhole = field(default_factory=Sinkhole)
    permitted_mark: int = PERMITTED_MARK
    ports: tuple[int, ...] = (SMTP_PORT,)
    answer: Answer = "reset"
    canary: Canary = field(default_factory=Canary)
    detection: Detection = field(default_factory=Detection)
    table_owner: bool = False
    period_s: float = 0.25
    signal_lifetime_s: float = 30.0
    exchange: str = "sqlite:/var/lib/egressguard/exchange/exchange.db"
    exchange_key: str = ""
    database: str = "/var/lib/egressguard/egressguard.db"
    runtime_directory: str = "/run/egressguard"
    rules: str = ""
    metrics: str = "127.0.0.1:9725"
    notify: Notify = field(default_factory=Notify)

    def interfaces_of(self, address: Address) -> tuple[str, ...]:
        """The inside interfaces behind which `address` lives; empty when it is outside."""
        return tuple(
            name
            for inside in self.inside
            if any(address in network for network in inside.networks)
            for name in inside.interfaces
        )

    def bridges_of(self, address: Address) -> tuple[Bridge, ...]:
        """The bridges behind whose ports `address` lives."""
        return tuple(b for b in self.bridge if any(address in network for network in b.networks))

    def inside_interfaces(self) -> frozenset[str]:
        """The names of all inside interfaces."""
        return frozenset(name for inside in self.inside for name in inside.interfaces)

    def redirects(self) -> bool:
        """Whether connections are led elsewhere, to the relay or to the listener."""
        return self.sinkhole.enabled or self.answer == "redirect" or any(g.answer for g in self.group)

    def canary_keys(self) -> frozenset[Host]:
        """What the rules count the canary under; it is nobody's attempt."""
        return frozenset(hosts_of(self.canary.addresses))

    def names(self) -> dict[Host, str]:
        """The name of every host that the configuration names, senders included."""
        return {key: machine.name for _, machine in self.machines() for key in hosts_of(machine.addresses)}

    def machine_of(self) -> dict[Host, Host]:
        """Every key of a machine with several, mapped to its first: they are judged as one.

        Otherwise a bot that was caught in IPv4 would start afresh in IPv6.
        """
        several = (hosts_of(machine.addresses) for _, machine in self.machines())
        return {key: keys[0] for keys in several if len(keys) > 1 for key in keys}

    def sender_name(self, address: str) -> str:
        """The name of the sender with exactly this address; empty when no sender has it."""
        return next((s.name for s in self.sender if address in map(str, s.addresses)), "")

    def machines(self) -> Iterator[tuple[str, Machine]]:
        """Every sender and every host, with its key in the file: `sender.0`, `host.3`."""
        yield from ((f"sender.{i}", machine) for i, machine in enumerate(self.sender))
        yield from ((f"host.{i}", machine) for i, machine in enumerate(self.host))


def mistakes(settings: Settings) -> Iterator[Mistake]:
    """Everything wrong with `settings` that no single field can tell."""
    if not settings.inside and not settings.bridge:
        yield Mistake("inside", "is missing: name the interfaces and networks that hosts live behind, or a "
                                "[[bridge]]", needs=("bridge",))
    yield from bridge_mistakes(settings.bridge)
    yield from redirect_mistakes(
        settings.redirect, frozenset(a for sender in settings.sender for a in sender.addresses),
        [*(["answer"] if settings.answer == "redirect" else []),
         *(f"group.{i}.answer" for i, group in enumerate(settings.group) if group.answer)])
    yield from sinkhole_mistakes(settings.sinkhole)
    yield from cgroup_mistakes(settings.own.cgroups)
    yield from last_line_mistakes(settings.last_line, settings.inside_interfaces(), settings.permitted_mark)
    for i, inside in enumerate(settings.inside):
        yield from interface_mistakes(f"inside.{i}.interfaces", inside.interfaces)
    yield from _zone_mistakes(settings)
    yield from _overlaps(settings)
    for key, machine in settings.machines():
        yield from _machine_mistakes(key, machine, settings)
    yield from _double_use(settings)
    yield from _sender_mistakes(settings)
    yield from _group_mistakes(settings)
    yield from _port_mistakes(settings)
    yield from _canary_mistakes(settings)
    yield from url_mistakes(settings.exchange, settings.exchange_key)
    yield from place_mistakes(settings.metrics)
    yield from notify_mistakes(settings.notify)
    yield from _number_mistakes(settings)


def _zone_mistakes(settings: Settings) -> Iterator[Mistake]:
    """What follows a `%` is free text to Python's addresses, and would reach nft as it stands."""
    placed = [*((f"inside.{i}", n) for i, inside in enumerate(settings.inside) for n in inside.networks),
              *((f"bridge.{i}", n) for i, bridge in enumerate(settings.bridge) for n in bridge.networks),
              *((f"group.{i}", n) for i, group in enumerate(settings.group) for n in group.networks)]
    machines = [(key, a) for key, machine in settings.machines() for a in machine.addresses]
    for key, address in [*((f"{key}.networks", n.network_address) for key, n in placed),
                         *((f"{key}.addresses", a) for key, a in machines),
                         *(("redirect.relays", a) for a in settings.redirect.relays),
                         *(("own.relays", a) for a in settings.own.relays),
                         *(("canary.addresses", a) for a in settings.canary.addresses)]:
        if getattr(address, "scope_id", None) is not None:
            yield Mistake(key, f"{str(address)!r} has a zone: leave out the % and what follows it")


def _overlaps(settings: Settings) -> Iterator[Mistake]:
    """A network behind two declarations would give its senders two places to send from."""
    placed = [(i, n) for i, inside in enumerate(settings.inside) for n in inside.networks]
    for position, (i, one) in enumerate(placed):
        for j, other in placed[position + 1:]:
            if i != j and one.version == other.version and one.overlaps(other):
                yield Mistake(f"inside.{j}.networks", f"{other} overlaps {one} of inside.{i}: a "
                              "network lives behind one [[inside]]; list all its interfaces there")


def _machine_mistakes(key: str, machine: Machine, settings: Settings) -> Iterator[Mistake]:
    if not machine.name.strip() or not machine.name.isprintable():
        yield Mistake(f"{key}.name", f"{machine.name!r} is no name: use printable characters")
    if not machine.addresses:
        yield Mistake(f"{key}.addresses", f"is empty: give the addresses of {machine.name!r}",
                      needs=(f"{key}.addresses",))
    if not settings.inside and not settings.bridge:
        return  # which is the mistake
    placed = [place.networks for place in settings.inside] + [bridge.networks for bridge in settings.bridge]
    networks = ", ".join(str(n) for found in placed for n in found) or "none"
    for address in machine.addresses:
        if not any(address in network for found in placed for network in found):
            yield Mistake(f"{key}.addresses",
                          f"{address} lies behind no inside interface (inside networks: {networks});"
                          " give an address inside one of them, or add its network to an [[inside]]",
                          needs=("inside.*.networks", "bridge.*.networks"))


def _double_use(settings: Settings) -> Iterator[Mistake]:
    owners: dict[Host, str] = {}
    for key, machine in settings.machines():
        for host in hosts_of(machine.addresses):
            owner = owners.setdefault(host, key)
            if owner != key:
                yield Mistake(f"{key}.addresses", f"{host} belongs to {owner} already: one host, one entry "
                              "(an IPv6 host is a whole /64)")


def _sender_mistakes(settings: Settings) -> Iterator[Mistake]:
    for i, sender in enumerate(settings.sender):
        for port in sender.ports:
            yield from interface_mistakes(f"sender.{i}.ports", (port,))
            if not any(bridge.machine_ports(frozenset({port})) for bridge in settings.bridge):
                yield Mistake(f"sender.{i}.ports", f"{port} is no machine's port of any [[bridge]]",
                              needs=("bridge.*.ports",))
        if sender.mac is not None and not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", sender.mac):
            yield Mistake(f"sender.{i}.mac", f"{sender.mac!r} is no MAC address; write it as `ip neighbour` "
                          "shows it, such as 00:00:5e:00:53:0a")


def _group_mistakes(settings: Settings) -> Iterator[Mistake]:
    """A host in two groups would have two modes."""
    placed = [(i, n) for i, group in enumerate(settings.group) for n in group.networks]
    for position, (i, one) in enumerate(placed):
        for j, other in placed[position + 1:]:
            if one.version == other.version and one.overlaps(other):
                yield Mistake(f"group.{j}.networks", f"{other} overlaps {one} of group.{i}: "
                              "a host belongs to one group")
    for i, group in enumerate(settings.group):
        if not group.networks:
            yield Mistake(f"group.{i}.networks", "is empty: name the networks of its hosts",
                          needs=(f"group.{i}.networks",))
        for port in sorted({*group.also_block} & {*group.also_count}):
            yield Mistake(f"group.{i}.also_count", f"{port} stands in also_block too: choose one")


def _port_mistakes(settings: Settings) -> Iterator[Mistake]:
    if SMTP_PORT not in settings.ports:
        yield Mistake("ports", f"lacks {SMTP_PORT}: to block nothing, use mode = \"observe\"",
                      needs=("ports",))
    named = [("ports", settings.ports), *(
        (f"group.{i}.{key}", ports) for i, group in enumerate(settings.group)
        for key, ports in (("also_block", group.also_block), ("also_count", group.also_count)))]
    for key, ports in named:
        for port in ports:
            if not 0 < port < 65536:
                yield Mistake(key, f"{port} is no port: 1 to 65535")
            elif key != "ports" and port in settings.ports:
                yield Mistake(key, f"{port} is blocked for the whole site already (ports)")


def _canary_mistakes(settings: Settings) -> Iterator[Mistake]:
    """A host with the canary's address would not be judged, and an inside destination proves nothing."""
    for key in ("addresses", "destinations"):
        found: tuple[Address, ...] = getattr(settings.canary, key)
        if sorted(address.version for address in found) not in ([4], [6], [4, 6]):
            yield Mistake(f"canary.{key}", "needs one address, or one of each family",
                          needs=(f"canary.{key}",))
        for address in found:
            taken = [n for inside in settings.inside for n in inside.networks
                     if n.version == address.version and ip_network(host_of(address)).overlaps(n)]
            if taken:
                yield Mistake(f"canary.{key}", f"{address} lies in {taken[0]}, which is inside: choose an "
                              "address that no host has")


def _number_mistakes(settings: Settings) -> Iterator[Mistake]:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("period_s", settings.period_s, 0.05, 60),
        ("canary.period_s", settings.canary.period_s, 5, 86400),
        ("signal_lifetime_s", settings.signal_lifetime_s, 5, 86400),
        ("detection.half_life_s", settings.detection.half_life_s, 60, 30 * 86400),
        ("detection.false_alarm", settings.detection.false_alarm, 1e-9, 0.5),
        ("detection.suspect_false_alarm", settings.detection.suspect_false_alarm, 1e-9, 0.5),
        ("detection.hold_false_alarm", settings.detection.hold_false_alarm, 1e-9, 0.5),
        ("detection.missed", settings.detection.missed, 1e-9, 0.5),
        ("detection.new_destination_if_spambot",
         settings.detection.new_destination_if_spambot, 0.01, 0.99),
        ("detection.new_destination_if_benign",
         settings.detection.new_destination_if_benign, 0.01, 0.99),
    )
    for key, value, low, high in bounds:
        if not (math.isfinite(value) and low <= value <= high):
            yield Mistake(key, f"{value} is out of range: {low} to {high}")
    yield from _order_mistakes(settings.detection)


def _order_mistakes(detection: Detection) -> Iterator[Mistake]:
    if detection.false_alarm > detection.suspect_false_alarm:
        yield Mistake("detection.false_alarm",
                      "is above suspect_false_alarm: `compromised` needs more evidence than `suspect`",
                      needs=("detection.suspect_false_alarm",))
    if detection.hold_false_alarm > detection.false_alarm:
        yield Mistake("detection.hold_false_alarm",
                      "is above false_alarm: proposing to hold a host needs more evidence than `compromised`",
                      needs=("detection.false_alarm",))
    if detection.new_destination_if_spambot <= detection.new_destination_if_benign:
        yield Mistake("detection.new_destination_if_spambot", "is not above "
                      "new_destination_if_benign: new destinations must speak for a spambot",
                      needs=("detection.new_destination_if_benign",))
