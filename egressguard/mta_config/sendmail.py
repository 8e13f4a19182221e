"""sendmail: mailertable and queue age for a client; access and INPUT_MAIL_FILTER for a relay."""

from collections.abc import Iterator
from ipaddress import IPv6Network

from egressguard.core.errors import ConfigError, Mistake
from egressguard.mta_config.part import Part, part
from egressguard.mta_config.site import Milter, Network, Site, is_address

MC = "/etc/mail/sendmail.mc"
MAILERTABLE = "/etc/mail/mailertable"
ACCESS = "/etc/mail/access"
STEP = {4: 8, 6: 16}  # the access map knows whole octets and whole groups only
MOST_ENTRIES = 256


def client(site: Site) -> list[Part]:
    """Everything goes to the relay; what it defers is tried again after the queue age."""
    return [
        part(MAILERTABLE, f".\tesmtp:{':'.join(map(_destination, site.relays))}"),
        part(MC,
             "dnl # egressguard: before the MAILER lines.",
             "FEATURE(`mailertable')dnl",
             f"define(`confMIN_QUEUE_AGE', `{site.queue_age}')dnl"),
        part("command line", f"sendmail -bd -q{site.queue_run}"),
        part("then", f"makemap hash {MAILERTABLE} < {MAILERTABLE}", *BUILD),
    ]


def relay(site: Site) -> list[Part]:
    """The networks may relay, and the milter is asked; F=T: without an F= it could be passed by."""
    entries = [entry for network in site.networks for entry in _entries(network)]
    return [
        part(ACCESS, *(f"Connect:{entry}\tRELAY" for entry in entries)),
        part(MC,
             "dnl # egressguard: before the MAILER lines. F=T: a filter that is down is a temporary failure.",
             "FEATURE(`access_db')dnl",
             f"INPUT_MAIL_FILTER(`egressguard', `S={_socket(site.milter)}, F=T, T=C:2s;S:3s;R:3s;E:5s')dnl"),
        part("then", f"makemap hash {ACCESS} < {ACCESS}", *BUILD,
             "egressguard-milter check --sendmail /etc/mail/sendmail.cf"),
    ]


BUILD = (f"m4 {MC} > /etc/mail/sendmail.cf", "restart sendmail")


def _destination(relay: str) -> str:
    """Brackets: this host, not its MX."""
    return f"[IPv6:{relay}]" if is_address(relay) and ":" in relay else f"[{relay}]"


def _socket(milter: Milter) -> str:
    if milter.path:
        return f"unix:{milter.path}"
    return f"{'inet6' if ':' in milter.address else 'inet'}:{milter.port}@{milter.address}"


def _entries(network: Network) -> Iterator[str]:
    """The keys of the access map that are `network` together. Raises ConfigError for too many."""
    step = STEP[network.version]
    length = -(-network.prefixlen // step) * step
    count = 1 << (length - network.prefixlen)
    if count > MOST_ENTRIES:
        raise ConfigError("mta-config", [Mistake(
            "--network", f"{network} would be {count} lines, since sendmail's access map knows multiples of "
                         f"/{step} only; write the /{length} networks in use, or a /{length - step}")])
    for part_of in network.subnets(new_prefix=length):
        shown = length // step
        if isinstance(part_of, IPv6Network):
            groups = part_of.network_address.exploded.split(":")[:shown]
            # Without leading zeros and uncompressed: so sendmail writes an address that it looks up.
            yield "IPv6:" + ":".join(f"{int(group, 16):x}" for group in groups)
        else:
            yield ".".join(str(part_of.network_address).split(".")[:shown])
