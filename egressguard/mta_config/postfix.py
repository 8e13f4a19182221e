"""Postfix: relayhost and back-off times for a client; mynetworks and smtpd_milters for a relay."""

from egressguard.mta_config.part import Part, part
from egressguard.mta_config.site import Milter, Network, Site

MAIN = "/etc/postfix/main.cf"


def client(site: Site) -> list[Part]:
    """Everything goes to the relay; what it defers is tried again after the queue age, and then as often."""
    first, *others = site.relays
    fallback = [f"smtp_fallback_relay = {' '.join(map(_destination, others))}"] if others else []
    return [
        part(MAIN,
             f"relayhost = {_destination(first)}", *fallback,
             f"queue_run_delay = {site.queue_run}",
             f"minimal_backoff_time = {site.queue_age}",
             f"maximal_backoff_time = {site.queue_age}"),
        part("then", "postfix reload"),
    ]


def relay(site: Site) -> list[Part]:
    """The networks may relay, and the milter is asked; with `accept`, its absence would mean no limits."""
    networks = " ".join(["127.0.0.0/8", "[::1]/128", *map(_network, site.networks)])
    return [
        part(MAIN,
             *CHROOT[:1 if site.milter.path else 0],
             f"mynetworks = {networks}",
             f"smtpd_milters = {{ {_socket(site.milter)}, default_action=tempfail, "
             "connect_timeout=2s, command_timeout=3s, content_timeout=5s }"),
        part("then", "postfix reload", "egressguard-milter check --postfix /etc/postfix"),
    ]


CHROOT = ("# Debian's smtpd is chrooted: it looks for this path below /var/spool/postfix.",)


def _destination(relay: str) -> str:
    """Brackets: this host, not its MX."""
    return f"[{relay}]"


def _network(network: Network) -> str:
    if network.version == 6:
        return f"[{network.network_address}]/{network.prefixlen}"
    return str(network)


def _socket(milter: Milter) -> str:
    """Postfix writes the host first, unlike libmilter."""
    if milter.path:
        return f"unix:{milter.path}"
    host = f"[{milter.address}]" if ":" in milter.address else milter.address
    return f"inet:{host}:{milter.port}"
