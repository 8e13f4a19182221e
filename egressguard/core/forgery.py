"""Whether what came from an address came from the machine that has it: a neighbour on the same segment can
write any address into its packets, but not easily another MAC into the router's neighbour table.

What speaks for the machine is the `mac` that the configuration gives it, or else the neighbour table. Where
neither knows the address, two MACs are still suspicious, and one says nothing. Addresses are compared, not
hosts: the machines of one /64 have a MAC each.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from egressguard.core.hosts import Host, host_of, hosts_of
from egressguard.core.settings import Settings

Macs = Mapping[str, frozenset[str]]  # by address


@dataclass(frozen=True, slots=True)
class Forgery:
    """Packets in the name of `address` that came from `macs`; `owner` is the MAC that it should have been, by
    the configuration if `configured`, and empty where nobody knows.
    """

    address: str
    macs: frozenset[str]
    owner: frozenset[str]
    configured: bool = False

    @property
    def host(self) -> Host:
        """The host that would be judged for it."""
        return host_of(ip_address(self.address))

    def of(self, what: str, role: str = "") -> str:
        """What is suspected, in words."""
        macs, begins = ", ".join(sorted(self.macs)), f"{what} in the name of {role}{self.address} came from"
        if not self.owner:
            return f"{begins} {len(self.macs)} MAC addresses within an hour: {macs}"
        knows = "the configuration" if self.configured else "the neighbour table"
        return f"{begins} MAC {macs}; {knows} has {', '.join(sorted(self.owner))}"


MANY = 10  # machines with more addresses than that are named in the inventory, or are routers


@dataclass(frozen=True, slots=True)
class Crowd:
    """A machine that hides among others: attempts in the name of `hosts` hosts, all from one MAC."""

    mac: str
    hosts: int

    def __str__(self) -> str:
        return (f"attempts in the name of {self.hosts} hosts came from one MAC, {self.mac}, within an hour: "
                "one machine may be taking turns at their addresses")


def crowds(seen: Iterable[Macs], settings: Settings) -> list[Crowd]:
    """MACs that stand behind more than `MANY` hosts: a /64 is one, and so is a machine of the inventory."""
    machine_of = settings.machine_of()
    hosts: dict[str, set[Host]] = {}
    for address, macs in (item for table in seen for item in table.items()):
        host = host_of(ip_address(address))
        for mac in macs:
            hosts.setdefault(mac, set()).add(machine_of.get(host, host))
    return [Crowd(mac, len(found)) for mac, found in sorted(hosts.items()) if len(found) > MANY]


def forgeries(seen: Iterable[Macs], neighbours: Macs, settings: Settings) -> list[Forgery]:
    """What of the MACs `seen` does not fit, of all tables together."""
    owners = _configured(settings)
    macs: dict[str, frozenset[str]] = {}
    for address, found in (item for table in seen for item in table.items()):
        macs[address] = macs.get(address, frozenset()) | found
    return [forgery for address, found in sorted(macs.items())
            for forgery in _judged(address, found, owners, neighbours)]


def _configured(settings: Settings) -> dict[Host, frozenset[str]]:
    return {key: frozenset({machine.mac}) for _, machine in settings.machines() if machine.mac
            for key in hosts_of(machine.addresses)}


def _judged(address: str, macs: frozenset[str], owners: Mapping[Host, frozenset[str]], neighbours: Macs
            ) -> Iterator[Forgery]:
    configured = owners.get(host_of(ip_address(address)), frozenset())
    owner = configured or neighbours.get(address, frozenset())
    foreign = macs - owner
    if foreign and (owner or len(macs) > 1):
        yield Forgery(address, foreign, owner, bool(configured))
