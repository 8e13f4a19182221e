"""Which connections the rules in force would refuse: those that were made before, when they were permitted,
or while the rules were not there.

The rules refuse their packets without looking at connection tracking; but an entry that stays would be a
permission again for whoever asks connection tracking first, another table or a flowtable.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from egressguard.core.hosts import Address, host_of
from egressguard.core.orders import address_of
from egressguard.core.plan import Changes, too_loose
from egressguard.core.ruleset import Leases
from egressguard.core.settings import SMTP_PORT, Group, Settings

# Leases whose end, and those whose beginning, takes a permission away.
PERMISSIONS = frozenset({"exception4", "exception6", "exception_to4", "exception_to6", "opened_family"})
PROHIBITIONS = frozenset({"quarantine4", "quarantine6"})


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection as the one who made it sees it, before any address translation."""

    source: str
    destination: str
    port: int

    def __str__(self) -> str:
        to = f"[{self.destination}]" if ":" in self.destination else self.destination
        return f"{self.source} to {to}:{self.port}"


def tightens(changes: Changes) -> bool:
    """Whether `changes` take a permission away."""
    return bool(too_loose(changes)) or any(
        (change.removed and change.set_name in PERMISSIONS)
        or (change.added and change.set_name in PROHIBITIONS) for change in changes)


def ports_of(settings: Settings) -> frozenset[int]:
    """Every port on which somebody may be refused."""
    return frozenset({*settings.ports, *(port for group in settings.group for port in group.also_block)})


def refused(connection: Connection, settings: Settings, leases: Leases) -> bool:
    """Whether the rules refuse the connection's packets, as far as configuration and leases tell."""
    source, destination = ip_address(connection.source), ip_address(connection.destination)
    host = str(address_of(host_of(source)))
    if not settings.interfaces_of(source) or any(source in s.addresses for s in settings.sender):
        return False  # not one of our hosts' connections; or a sender's, which is never cut
    if (host,) in leases.get(f"quarantine{source.version}", {}):
        return True
    if settings.interfaces_of(destination) or _excepted(host, connection, leases):
        return False
    return _mode(source, connection.port, settings) == "enforce"


def _excepted(host: str, connection: Connection, leases: Leases) -> bool:
    version = ip_address(host).version
    return (bool(leases.get("opened_family"))
            or any(e[1] == host for e in leases.get(f"exception{version}", {}))
            or any(e[1:] == (host, connection.destination) for e in leases.get(f"exception_to{version}", {})))


def _mode(source: Address, port: int, settings: Settings) -> str:
    """What is done with the host's connections to this port."""
    group = next((g for g in settings.group if any(source in n for n in g.networks)), Group("", ()))
    if port == SMTP_PORT or port in group.also_block:
        return group.mode or settings.mode
    return settings.mode if port in settings.ports else "observe"
