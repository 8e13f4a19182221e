"""The router's configuration as frozen values.

`egressguard.config` reads a file into `Settings`; every field name is the key in that file. What may be wrong
with the whole of it: core/mistakes.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from egressguard.core.hosts import Address, Host, hosts_of
from egressguard.core.notify_settings import Notify
from egressguard.core.path_settings import PERMITTED_MARK, Bridge, LastLine, Network, Redirect, Sinkhole

Mode = Literal["observe", "enforce"]
Answer = Literal["reset", "drop", "prohibit", "redirect"]
SMTP_PORT = 25


@dataclass(frozen=True, slots=True)
class Inside:
    """Interfaces behind which hosts live, and the networks that live there.

    Of several interfaces a sender must come by one that has a route to it; not where routing is `asymmetric`.
    """

    interfaces: tuple[str, ...]
    networks: tuple[Network, ...]
    asymmetric: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A named inside machine of the inventory; its counters exist before its first attempt.

    With a `mac`, attempts in its name from another one are told as somebody else's.
    """

    name: str
    addresses: tuple[Address, ...]
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Sender(Machine):
    """A host that may speak SMTP to the outside; its interfaces follow from the inside networks.

    With a `mac`, its addresses are worth nothing behind another one. On a bridge it may be tied to `ports`;
    otherwise it is a sender behind every port of a machine.
    """

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
        """The name of every key that the configuration names; what is counted under a sender's /64 is
        somebody else in it, since the sender itself may.
        """
        beside = {key: f"beside {sender.name}" for sender in self.sender
                  for key in hosts_of(a for a in sender.addresses if a.version == 6)}
        return {key: machine.name for _, machine in self.machines()
                for key in hosts_of(machine.addresses)} | beside

    def machine_of(self) -> dict[Host, Host]:
        """Every key of a machine with several, mapped to its first: they are judged as one.

        Otherwise a bot that was caught in IPv4 would start afresh in IPv6. A sender's are nobody's: what is
        counted under them was sent by others, a neighbour in its /64 or whoever forges its address.
        """
        several = (hosts_of(machine.addresses) for machine in self.host)
        return {key: keys[0] for keys in several if len(keys) > 1 for key in keys}

    def sender_name(self, address: str) -> str:
        """The name of the sender with exactly this address; empty when no sender has it."""
        return next((s.name for s in self.sender if address in map(str, s.addresses)), "")

    def machines(self) -> Iterator[tuple[str, Machine]]:
        """Every sender and every host, with its key in the file: `sender.0`, `host.3`."""
        yield from ((f"sender.{i}", machine) for i, machine in enumerate(self.sender))
        yield from ((f"host.{i}", machine) for i, machine in enumerate(self.host))
