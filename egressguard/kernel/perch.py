"""Where the canary sits: a namespace of its own behind a veth, as a customer's machine would, for one flight.

Everything hangs on that namespace, which a child of this process holds: when this process ends, in whatever
way, the child dies, and the kernel removes the namespace, with it the veth, and with that routes and
neighbours.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egressguard.core.errors import KernelError
from egressguard.core.hosts import Address
from egressguard.kernel import namespace

INTERFACE, FAR_INTERFACE = "egcanary0", "eth0"
MAC, FAR_MAC = "00:00:5e:00:53:c0", "00:00:5e:00:53:c1"  # RFC 7042: for documentation, nobody has them
MAC_BYTES = bytes.fromhex(MAC.replace(":", "")), bytes.fromhex(FAR_MAC.replace(":", ""))
ETH_P_ALL = 3
UP_S = 1.5
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
RTN_UNICAST, RTN_LOCAL = 1, 2


class Perch:
    """The veth, seen from the router's side; `wire` is the canary's own end of it."""

    def __init__(self, route: Any, index: int, wire: socket.socket) -> None:
        self._route, self._index, self.wire = route, index, wire

    def way_out(self, source: Address, destination: Address, inside: frozenset[str]) -> str:
        """The interface by which this router would forward a packet from the canary. Raises KernelError
        with the reason when it would go nowhere, or not to the outside.
        """
        what = f"the canary's destination {destination}"
        try:
            found = self._route.route("get", dst=str(destination), src=str(source), iif=self._index,
                                      family=FAMILY[source.version])[0]
        except NetlinkError as error:
            raise KernelError(f"{what} is not routed: {os.strerror(error.code)}") from error
        if found["type"] != RTN_UNICAST:
            kind = "is this router's own" if found["type"] == RTN_LOCAL else "is routed nowhere"
            raise KernelError(f"{what} {kind}; set canary.destinations to outside addresses")
        name = socket.if_indextoname(found.get_attr("RTA_OIF"))
        if name in inside:
            raise KernelError(f"{what} is routed to {name}, which is inside; set canary.destinations to "
                              "outside addresses")
        return name


@contextmanager
def perch(addresses: tuple[Address, ...]) -> Iterator[Perch]:
    """Builds it in this thread's network namespace, and removes it. Raises KernelError."""
    try:
        with namespace.Away(f"the canary's {INTERFACE}", _far_end) as away, IPRoute() as route:
            _remove_leftover(route)
            index = _veth(route, away.descriptor)
            try:
                with away.visit() as wire:
                    _routes(route, index, addresses)
                    _wait_until_up(route, index)
                    yield Perch(route, index, wire)
            finally:
                with suppress(NetlinkError):
                    route.link("del", index=index)
    except (NetlinkError, OSError) as error:
        raise KernelError(f"building the canary's {INTERFACE}: {error}") from error


def _remove_leftover(route: Any) -> None:
    """The last one's veth, if the kernel has not removed it yet: the caller's lock says that it is dead."""
    for link in route.get_links():
        if link.get_attr("IFLA_IFNAME") == INTERFACE:
            if link.get_attr("IFLA_ADDRESS") != MAC:
                raise KernelError(f"interface {INTERFACE} exists and is not egressguard's: rename it")
            with suppress(NetlinkError):
                route.link("del", index=link["index"])


def _veth(route: Any, away: int) -> int:
    """The veth, its far end made in the other namespace; the near end's index."""
    peer = {"ifname": FAR_INTERFACE, "address": FAR_MAC, "net_ns_fd": away}
    route.link("add", ifname=INTERFACE, address=MAC, kind="veth", peer=peer)
    index: int = route.link_lookup(ifname=INTERFACE)[0]
    _set("net/ipv6/conf/{}/accept_ra", "0")  # nobody may configure this machine from there
    # What IPv4 does with other interfaces: an administrator may have left the default off.
    _set("net/ipv4/conf/{}/forwarding", Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())
    route.link("set", index=index, state="up")
    return index


def _set(key: str, value: str) -> None:
    with suppress(FileNotFoundError):  # without IPv6 there is nothing to set
        Path("/proc/sys", key.format(INTERFACE)).write_text(value)


def _far_end() -> socket.socket:
    """The canary's end, up, without an address: its machine answers nothing and asks for nothing."""
    _set("net/ipv6/conf/default/disable_ipv6", "1")
    with IPRoute() as there:
        there.link("set", index=there.link_lookup(ifname=FAR_INTERFACE)[0], state="up")
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    wire.bind((FAR_INTERFACE, ETH_P_ALL))
    return wire


def _wait_until_up(route: Any, index: int) -> None:
    """The near end came up before its peer; until the kernel's link watcher has been there, what it should
    send, the answers, is dropped (net/core/link_watch.c).
    """
    deadline = time.monotonic() + UP_S
    while route.get_links(index)[0].get_attr("IFLA_OPERSTATE") != "UP" and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.005)  # the watcher says so just before it lets packets through


def _routes(route: Any, index: int, addresses: tuple[Address, ...]) -> None:
    """The canary's addresses live behind its veth, for the rules' check of forged sources and for answers."""
    for address in addresses:
        length = 32 if address.version == 4 else 128
        family = FAMILY[address.version]
        route.route("add", dst=f"{address}/{length}", oif=index, family=family, scope=253)  # link
        route.neigh("add", dst=str(address), lladdr=FAR_MAC, ifindex=index, state="permanent", family=family)


