"""What the kernel's sets should hold: the configuration, translated and nothing else."""

from ipaddress import IPv4Address

from egressguard.core.hosts import IPV6_PREFIX_LENGTH, Address
from egressguard.core.ruleset import ALL_FAMILIES, SMTP_PORTS, Element, Sets
from egressguard.core.settings import Settings


def desired(settings: Settings) -> Sets:
    """The elements of every configured set of rules/egressguard.nft."""
    allowed = [(interface, address)
               for sender in settings.sender
               for address in sender.addresses
               for interface in settings.interfaces_of(address)]
    known = [address for machine in settings.host for address in machine.addresses]
    return {
        "inside_if": frozenset((name,) for inside in settings.inside for name in inside.interfaces),
        "allow4": frozenset((i, str(a)) for i, a in allowed if isinstance(a, IPv4Address)),
        "allow6": frozenset((i, str(a)) for i, a in allowed if not isinstance(a, IPv4Address)),
        "known4": frozenset(_known(a) for a in known if isinstance(a, IPv4Address)),
        "known6": frozenset(_known(a) for a in known if not isinstance(a, IPv4Address)),
        "observed_family": ALL_FAMILIES if settings.mode == "observe" else frozenset(),
        "smtp_ports": SMTP_PORTS,
    }


def _known(address: Address) -> Element:
    """The address under which rules/ looks a host up: IPv6 masked to the host's prefix."""
    if isinstance(address, IPv4Address):
        return (str(address),)
    drop = 128 - IPV6_PREFIX_LENGTH
    return (str(type(address)(int(address) >> drop << drop)),)
