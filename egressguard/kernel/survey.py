"""Reads what `egressguard init` wants to know: links, routes, neighbours, SMTP connections, who answers."""

import selectors
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from pyroute2 import IPRoute, NFCTSocket
from pyroute2.netlink.exceptions import NetlinkError

from egressguard.core.hosts import Address
from egressguard.core.settings import SMTP_PORT
from egressguard.core.survey import Flow, Survey
from egressguard.kernel.links import read_links
from egressguard.kernel.routing import RT_TABLE_MAIN, read_routing

FAMILIES = {socket.AF_INET: "V4", socket.AF_INET6: "V6"}
IPS_ASSURED = 1 << 2  # traffic in both directions (linux/netfilter/nf_conntrack_common.h)
PROBE_S = 1.5
MOST_PROBES = 500


def read_survey(*, probe: bool) -> Survey:
    """The machine as it is now; `probe` asks every neighbour whether it answers on port 25."""
    with IPRoute() as route:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
        macs = _neighbours(route)
    behind = read_routing(names, RT_TABLE_MAIN).routes
    routes = tuple((r.interface, r.network) for r in behind if r.onward and r.network.prefixlen)
    listeners = _answering(list(macs)[:MOST_PROBES]) if probe else frozenset()
    return Survey(read_links(), routes, tuple(_flows()), listeners, macs)


def _neighbours(route: Any) -> dict[Address, str]:
    found = {}
    for family in FAMILIES:
        for entry in route.get_neighbours(family=family):
            address, mac = entry.get_attr("NDA_DST"), entry.get_attr("NDA_LLADDR")
            if address and mac and _lasting(parsed := ip_address(address)):
                found[parsed] = mac
    return found


def _lasting(address: Address) -> bool:
    return not (address.is_link_local or address.is_multicast)


def _flows() -> Iterable[Flow]:
    """Where connection tracking is not in use, or not ours to read, there are none."""
    for family, letter in FAMILIES.items():
        with suppress(NetlinkError, OSError), NFCTSocket(nfgen_family=family) as tracked:
            for entry in tracked.dump():
                flow = _flow(entry, letter)
                if flow is not None:
                    yield flow


def _flow(entry: Any, letter: str) -> Flow | None:
    original = entry.get_attr("CTA_TUPLE_ORIG")
    ends, protocol = original.get_attr("CTA_TUPLE_IP"), original.get_attr("CTA_TUPLE_PROTO")
    source = ends.get_attr(f"CTA_IP_{letter}_SRC")
    if source is None or protocol.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_TCP:
        return None
    if protocol.get_attr("CTA_PROTO_DST_PORT") != SMTP_PORT or not entry.get_attr("CTA_STATUS") & IPS_ASSURED:
        return None
    return Flow(ip_address(source), ip_address(ends.get_attr(f"CTA_IP_{letter}_DST")))


def _answering(addresses: list[Address]) -> frozenset[Address]:
    """Those that accept a connection to port 25; all are asked at once."""
    found, deadline = set(), time.monotonic() + PROBE_S
    with selectors.DefaultSelector() as waiting:
        for address in addresses:
            _ask(address, waiting)
        while waiting.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left_s):
                asked: socket.socket = key.data[1]
                if asked.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(key.data[0])
                waiting.unregister(asked)
                asked.close()
        for key in list(waiting.get_map().values()):
            key.data[1].close()
    return frozenset(found)


def _ask(address: Address, waiting: selectors.BaseSelector) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    asked = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        asked.connect_ex((str(address), SMTP_PORT))
    except OSError:
        asked.close()
    else:
        waiting.register(asked, selectors.EVENT_WRITE, (address, asked))
