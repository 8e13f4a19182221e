"""What a configuration says of its machines, worked out once: it may name a hundred thousand of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from egressguard.core.hosts import Host, host_of, hosts_of
from egressguard.core.path_settings import Network
from egressguard.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Inventory:
    """`machine_of` leads from every key of a machine with several to its first, under which it is judged, and
    `keys` back; `names` has every key. `senders` are meant to mail: others are not told of them. `unjudged`
    are keys whose attempts are held against nobody: the canary's, and senders' addresses, which others have
    written on their packets (a neighbour in a sender's /64 is judged, as itself). Hosts live in `networks`.
    """

    machine_of: Mapping[Host, Host]
    keys: Mapping[Host, tuple[Host, ...]]
    names: Mapping[Host, str]
    senders: frozenset[Host]
    unjudged: frozenset[Host]
    networks: tuple[Network, ...] = ()

    def keys_of(self, machine: Host) -> tuple[Host, ...]:
        """Every key of a machine, the inventory's or a stranger."""
        return self.keys.get(machine, (machine,))

    def lives_here(self, host: Host) -> bool:
        """Whether this is a key as it is written here, of a host in one of the networks."""
        try:
            network = ip_network(host)
        except ValueError:
            return False
        return host == host_of(network.network_address) and any(
            network.version == other.version and network.overlaps(other) for other in self.networks)


def inventory_of(settings: Settings) -> Inventory:
    """The inventory that `settings` configure."""
    machine_of = settings.machine_of()
    keys: dict[Host, list[Host]] = {}
    for key, machine in machine_of.items():
        keys.setdefault(machine, []).append(key)
    senders = frozenset(key for sender in settings.sender for key in hosts_of(sender.addresses))
    return Inventory(machine_of, {machine: tuple(found) for machine, found in keys.items()}, settings.names(),
                     senders, settings.canary_keys() | {key for key in senders if ":" not in key},
                     (*(n for inside in settings.inside for n in inside.networks),
                      *(n for bridge in settings.bridge for n in bridge.networks)))
