"""Exim as a client: a router, a transport and a retry rule. It has no milter, so it cannot be the relay."""

from egressguard.mta_config.part import Part, part
from egressguard.mta_config.site import Site

FILE = "/etc/exim4/exim4.conf"


def client(site: Site) -> list[Part]:
    """Everything goes to the relay; what it defers is tried again after the queue age."""
    return [
        part(f"{FILE}, first after `begin routers`",
             "egressguard_relay:",
             "  driver = manualroute",
             "  domains = ! +local_domains",
             "  transport = egressguard_smtp",
             # Another list separator than the colon, which IPv6 addresses hold.
             f'  route_list = * "<+ {" + ".join(site.relays)}"',
             "  host_find_failed = defer",
             "  no_more"),
        part(f"{FILE}, after `begin transports`",
             "egressguard_smtp:",
             "  driver = smtp"),
        part(f"{FILE}, first after `begin retry`",
             f"*  *  F,5d,{site.queue_age}"),
        part("command line", f"exim -bd -q{site.queue_run}"),
        part("then", "exim -bV -C " + FILE, "restart exim"),
    ]
