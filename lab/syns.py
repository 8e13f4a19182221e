"""A source of SYNs that counts exactly what it sent: raw frames, any source address, bounded.

Runs as a process of its own beside a test: `python -m lab.syns`, in a namespace, prints its count
as JSON and ends by itself. A line before that says that it has begun.
"""

import argparse
import errno
import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from lab.namespaces import LabError, Namespace, end
from lab.packets import IPV4, IPV6, SYN, TCP

SMTP = 25
FIRST_PORT = 1024
PORTS = 60_000
# Different frames, sent in turn: more would only take longer to make.
MOST_FRAMES = 65_536
BATCH = 64
PACKAGE_PARENT = Path(__file__).resolve().parent.parent

Address = IPv4Address | IPv6Address
_stopping: list[int] = []  # the signal that ends the sending, once it came


@dataclass(frozen=True)
class Wire:
    """Where the frames go out: interface, own MAC, and the MAC of the next hop."""

    interface: str
    source_mac: str
    next_hop_mac: str


class SynSource:
    """A running source in `namespace`; wait() gives the exact number of SYNs it sent.

    Sources and destinations are addresses, or networks whose addresses take turns (2001:db8::/48/64: the
    first address of each /64 in it): the n-th SYN
    goes from the n-th source, and the destination changes after each round of sources. Without
    `per_second` it goes as fast as it can; it ends after `count` SYNs or `seconds`.
    """

    def __init__(
        self,
        namespace: Namespace,
        wire: Wire,
        *,
        sources: Sequence[str],
        destinations: Sequence[str],
        count: int,
        per_second: float = 0.0,
        seconds: float = 60.0,
        port: int = SMTP,
    ) -> None:
        self._seconds = seconds
        self.per_second = 0.0  # as achieved, once it has ended
        self._begun = False
        options: dict[str, Any] = {
            "interface": wire.interface,
            "source-mac": wire.source_mac,
            "next-hop-mac": wire.next_hop_mac,
            "sources": ",".join(sources),
            "destinations": ",".join(destinations),
            "count": count,
            "per-second": per_second,
            "seconds": seconds,
            "port": port,
        }
        self._process = namespace.popen(
            [sys.executable, "-m", "lab.syns", *(f"--{key}={value}" for key, value in options.items())],
            cwd=PACKAGE_PARENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._complaints = self._process.stdout, self._process.stderr

    def wait_until_begun(self) -> None:
        """Returns once it sends: on a busy machine that takes a while. Raises LabError if it failed."""
        if not self._begun:
            self._begun = bool(self._out.readline())
        if not self._begun:
            self.wait()

    def stop(self) -> int:
        """Ends it before its time; the number sent until then."""
        self.wait_until_begun()
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """The number sent, once it has ended. Raises LabError if it failed."""
        try:
            self._process.wait(self._seconds + 30)
            lines, complaints = self._out.readlines(), self._complaints.read()
        finally:
            end(self._process)
        if self._process.returncode != 0:
            raise LabError(f"the SYN source failed: {complaints}")
        found = json.loads(lines[-1])
        self.per_second = found["sent"] / found["seconds"]
        return int(found["sent"])


def addresses(texts: Sequence[str]) -> list[Address]:
    """The addresses named, networks expanded, at most MOST_FRAMES of each."""
    found: list[Address] = []
    for text in texts:
        if text.count("/") == 2:
            whole, _, length = text.rpartition("/")
            subnets = ip_network(whole).subnets(new_prefix=int(length))
            firsts = (ip_address(int(subnet.network_address) + 1) for subnet in subnets)
            found.extend(itertools.islice(firsts, MOST_FRAMES))
        elif "/" in text:
            network = ip_network(text)
            found.extend(network[n] for n in range(min(network.num_addresses, MOST_FRAMES)))
        else:
            found.append(ip_address(text))
    return found


def frames(wire: Wire, sources: Sequence[Address], destinations: Sequence[Address], count: int,
           port: int) -> list[bytes]:
    """`count` different SYNs, at most MOST_FRAMES."""
    return list(each_frame(wire, sources, destinations, count, port))


def each_frame(wire: Wire, sources: Sequence[Address], destinations: Sequence[Address], count: int,
               port: int) -> Iterator[bytes]:
    """The same, each made when it is asked for."""
    head = _mac(wire.next_hop_mac) + _mac(wire.source_mac)
    for number in range(min(count, MOST_FRAMES)):
        source = sources[number % len(sources)]
        destination = destinations[number // len(sources) % len(destinations)]
        yield head + packet(source, destination, FIRST_PORT + number % PORTS, port, number)


def packet(source: Address, destination: Address, source_port: int, port: int, sequence: int) -> bytes:
    """EtherType, IP header and TCP header of a SYN, with their checksums."""
    tcp = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, SYN, 65_535, 0, 0)
    ends = source.packed + destination.packed
    total = checksum(ends + struct.pack("!II", len(tcp), TCP) + tcp)
    tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
    if source.version != destination.version:
        raise LabError(f"{source} and {destination} are of different families")
    if source.version == 6:
        return struct.pack("!HIHBB", IPV6, 6 << 28, len(tcp), TCP, 64) + ends + tcp
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, TCP, 0) + ends
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return struct.pack("!H", IPV4) + ip + tcp


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pour(raw: socket.socket, made: Iterable[bytes], count: int, per_second: float, seconds: float) -> int:
    """Sends the frames in turn until `count` are sent or `seconds` are over; how many went out."""
    sent = 0
    begin = time.monotonic()
    turn = itertools.cycle(made)
    while not _stopping and sent < count and (passed := time.monotonic() - begin) < seconds:
        due = min(count - sent, BATCH)
        if per_second and (due := min(due, int(passed * per_second) + 1 - sent)) <= 0:
            time.sleep(0.0005)
            continue
        for frame in itertools.islice(turn, due):
            sent += _send(raw, frame)
    return sent


def _send(raw: socket.socket, frame: bytes) -> int:
    try:
        raw.send(frame)
    except OSError as error:
        # ENOBUFS: the interface's queue is full and the frame did not leave.
        if error.errno != errno.ENOBUFS:
            raise
        return 0
    return 1


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def main() -> None:
    """Sends from the command line's options and prints {"sent": n, "seconds": s}."""
    parser = argparse.ArgumentParser(prog="python -m lab.syns", description=__doc__)
    for name in ("interface", "source-mac", "next-hop-mac", "sources", "destinations"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--port", type=int, default=SMTP)
    parser.add_argument("--per-second", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    wire = Wire(options.interface, options.source_mac, options.next_hop_mac)
    sources, destinations = (addresses(text.split(",")) for text in (options.sources, options.destinations))
    make = each_frame if options.per_second else frames  # as fast as it can: not slowed down by making them
    made = make(wire, sources, destinations, options.count, options.port)
    signal.signal(signal.SIGTERM, lambda number, _: _stopping.append(number))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((options.interface, 0))
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        begin = time.monotonic()
        sent = pour(raw, made, options.count, options.per_second, options.seconds)
    sys.stdout.write(json.dumps({"sent": sent, "seconds": time.monotonic() - begin}) + "\n")


if __name__ == "__main__":
    main()
