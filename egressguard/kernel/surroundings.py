"""Reads everything around the rules that `doctor` judges; changes nothing but what the canary needs."""

import os
import re
from contextlib import closing

from egressguard.core.foreign_rules import foreign
from egressguard.core.settings import Settings
from egressguard.core.surroundings import Surroundings
from egressguard.core.tables import Table
from egressguard.core.wanted import tables
from egressguard.kernel import Netfilter, Ruleset, owner
from egressguard.kernel.canary import fly
from egressguard.kernel.foreign import read_legacy, read_listing, version
from egressguard.kernel.links import read_addresses, read_links_and_routes, read_ways
from egressguard.kernel.sysctl import read_sysctl


def read_surroundings(settings: Settings) -> Surroundings:
    """One reading, the fate of one canary included. Raises KernelError when something cannot be asked."""
    with closing(Netfilter()) as kernel:
        ruleset = kernel.ruleset()
        beside = {table.family: found for table in tables(settings)[1:] if (found := _beside(kernel, table))}
    listing, inside, own = read_listing(), settings.inside_interfaces(), read_addresses()
    links, routes = read_links_and_routes(inside)
    senders = [address for sender in settings.sender for address in sender.addresses]
    return Surroundings(
        settings=settings, own_hooks=ruleset.hooks if ruleset is not None else None,
        dormant=ruleset is not None and ruleset.dormant, links=links,
        foreign=foreign(listing, inside, own), sysctl=read_sysctl(inside), legacy=read_legacy(),
        kernel=_release(os.uname().release), nft=version(listing), canary=fly(settings),
        routes=routes, ways=read_ways(senders), own=own,
        beside={family: found.hooks for family, found in beside.items()},
        no_owner=owner.why_not() if settings.table_owner else "",
        last_line_on=frozenset(name for found in beside.values() for name in found.devices))


def _beside(kernel: Netfilter, table: Table) -> Ruleset | None:
    with closing(kernel.beside(table)) as other:
        return other.ruleset()


def _release(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a kernel's release, such as 6.12 of `6.12.9+deb13-amd64`."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
