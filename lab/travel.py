"""What becomes of a shape on its way through the router: did it arrive outside, and who has counted it.

Every shape goes to a destination of its own, so that what arrives names its shape. A marker follows each on
the same CPU and path; when it has arrived, the shape's fate is settled.
"""

import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from lab.filters import ip_filter
from lab.headers import Flow, ip
from lab.hypervisor import Hypervisor
from lab.namespaces import LabError
from lab.network import HOST_INTERFACE, ROUTER_MAC, Place, World
from lab.packets import ETHERNET_HEADER, IPV4, IPV6
from lab.shapes import Shape
from lab.sniffer import Capture
from lab.syns import Address

FIRST = {4: ip_address("203.0.113.130"), 6: ip_address("2001:db8:ffff::1000")}
MARKER = {4: ip_address("203.0.113.129"), 6: ip_address("2001:db8:ffff::fff")}
UDP, DISCARD = 17, 9
LONGEST = 2048
# No two runs share a flow: connection tracking remembers, and fragments are told apart by it.
_source_ports = itertools.cycle(range(20_000, 60_000))


@dataclass(frozen=True)
class Fate:
    """How many packets of a shape arrived outside, and by how much each named counter grew."""

    arrived: int
    counted: Mapping[str, int]


def travel(world: World | Hypervisor, place: Place, shapes: Iterable[Shape], family: int,
           counters: Callable[[], Mapping[str, int]] = dict, source: str = "") -> dict[str, Fate]:
    """Sends each shape from `place`, one after the other; `source` replaces the place's own address."""
    origin = ip_address(source or place.addresses[family == 6])
    known = [shape for shape in shapes if family in shape.families]

    def go() -> dict[str, Fate]:
        with _Road(world, place, family) as road:
            return {shape.name: _fate(road, shape, _flow(origin, FIRST[family] + n), counters)
                    for n, shape in enumerate(known)}

    return world.namespace(place).call(go)


def _flow(source: Address, destination: Address) -> Flow:
    return Flow(source, destination, next(_source_ports))


class _Road:
    """From a place's wire to the wire outside, with both ends open."""

    def __init__(self, world: World | Hypervisor, place: Place, family: int) -> None:
        self._head = bytes.fromhex((ROUTER_MAC[place.segment] + place.mac).replace(":", ""))
        self._type = IPV4 if family == 4 else IPV6
        self._marker = Flow(ip_address(place.addresses[family == 6]), MARKER[family], 9)
        self._serial = itertools.count(1)
        self._tap = Capture(world.outside, HOST_INTERFACE, ip_filter("in"))

    def __enter__(self) -> "_Road":
        # One CPU, one queue: what is sent first arrives first.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._wire.bind((HOST_INTERFACE, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()
        self._tap.count()
        self._tap.close()
        if self._tap.dropped:
            raise LabError(f"{self._tap.dropped} packets were not recorded")

    def send(self, packets: Iterable[bytes], ether_type: int | None = None) -> list[bytes]:
        """Sends them and returns what arrived outside until the marker did."""
        for packet in packets:
            self._wire.send(self._head + struct.pack("!H", ether_type or self._type) + packet)
        token = b"mark" + next(self._serial).to_bytes(4, "big")
        header = struct.pack("!HHHH", 9, DISCARD, 8 + len(token), 0)
        # Without a checksum IPv6 hosts discard it; arriving at the wire is enough.
        self._wire.send(self._head + struct.pack("!H", self._type) + ip(self._marker, header + token, UDP))
        return self._until(token)

    def _until(self, token: bytes) -> list[bytes]:
        arrived: list[bytes] = []
        for _ in range(10_000):
            frame = self._tap.socket.recv(LONGEST)
            if frame.rstrip(b"\0").endswith(token.rstrip(b"\0")) and destination(frame) in MARKER.values():
                return arrived
            arrived.append(frame)
        raise LabError("the marker did not arrive")


def destination(frame: bytes) -> Address:
    """The address that the outermost IP header names."""
    if frame[12:14] == struct.pack("!H", IPV4):
        return IPv4Address(frame[ETHERNET_HEADER + 16:ETHERNET_HEADER + 20])
    return IPv6Address(frame[ETHERNET_HEADER + 24:ETHERNET_HEADER + 40])


def _fate(road: _Road, shape: Shape, flow: Flow, counters: Callable[[], Mapping[str, int]]) -> Fate:
    before = counters()
    arrived = [frame for frame in road.send(shape.build(flow), shape.ether_type) if _belongs(frame, flow)]
    after = counters()
    return Fate(len(arrived), {name: n - before[name] for name, n in after.items() if n != before[name]})


def _belongs(frame: bytes, flow: Flow) -> bool:
    """Also an answer of the router to the claimed source, which for a forged one lies outside."""
    return destination(frame) in (flow.destination, flow.source)
