"""An established connection to another port, through the router with and without egressguard: how many
packets a second, and how many bytes. Connection tracking is on in both.
"""

import os
import socket
import statistics
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.firewall.line import ACK, FLAGS_AT, Line
from bench.firewall.packets import TRACKED, egressguard
from egressguard.core.settings import Group
from lab.network import SOMEBODY4, SOMEBODY6
from lab.packets import TCP
from lab.syns import checksum

CHUNK = bytes(1 << 18)
PORT = 8080
ENDS = {4: (socket.AF_INET, SOMEBODY4), 6: (socket.AF_INET6, SOMEBODY6)}
NONE = "no egressguard"
AGAIN = "no egressguard, again"
RULESETS = {NONE: TRACKED, "egressguard": egressguard(100)}
THROUGHPUT = {**RULESETS, AGAIN: TRACKED}
# What hanging into the two hooks costs by itself, and with the shortest question about a port in each.
HOOKS = """table inet hooks {{
    chain early {{
        type filter hook prerouting priority raw - 10
        {early}
    }}
    chain forward {{
        type filter hook forward priority filter - 10
        {forward}
    }}
}}
"""
SUBMISSION = (465, 587, 2525)
COMPARED = {
    **RULESETS,
    "egressguard, ports 465, 587, 2525 too": egressguard(
        100, group=(Group("submission", networks=(), also_block=SUBMISSION),)),
    "two chains without a rule": TRACKED + HOOKS.format(early="", forward=""),
    "two chains, asked for one port": TRACKED + HOOKS.format(early="th dport 25 drop",
                                                             forward="tcp dport 25 drop"),
}
PURE_ACK_BYTES = {4: 14 + 20 + 32, 6: 14 + 40 + 32}  # with the timestamps that Linux sends
ADDRESSES_AT = {4: 14 + 12, 6: 14 + 8}


def packet_costs(line: Line, count: int, rounds: int, family: int, compared: Mapping[str, str] = COMPARED
                 ) -> dict[str, list[float]]:
    """CPU nanoseconds per packet of an established connection, in each round: its last ACK again and again,
    which its receiver takes and does not answer.
    """
    costs: dict[str, list[float]] = {name: [] for name in compared}
    line.load(TRACKED)
    with _connection(line, family) as ack:
        for number in range(rounds):
            for name in list(compared)[::1 if number % 2 else -1]:
                line.load(compared[name])
                line.send([ack], count // 10)
                costs[name].append(line.send([ack], count))
    return costs


@contextmanager
def _connection(line: Line, family: int) -> Iterator[bytes]:
    """A connection through the router, and the frame with which its client completed it."""
    kind, to = ENDS[family]
    with line.host.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as heard:
        heard.bind(("eth0", 0))
        heard.settimeout(5)
        with line.outside.call(socket.create_server, ("", PORT), family=kind) as listener:
            client = line.host.call(socket.create_connection, (to, PORT), 5)
            with client, listener.accept()[0]:
                frame = heard.recv(2048)
                while len(frame) != PURE_ACK_BYTES[family] or frame[FLAGS_AT[family]] != ACK:
                    frame = heard.recv(2048)
                yield _whole(frame, family)


def _whole(frame: bytes, family: int) -> bytes:
    """With the checksum that an interface would have added."""
    at = FLAGS_AT[family] - 13
    tcp = frame[at:at + 16] + bytes(2) + frame[at + 18:]
    total = checksum(frame[ADDRESSES_AT[family]:at] + struct.pack("!II", len(tcp), TCP) + tcp)
    return frame[:at] + tcp[:16] + struct.pack("!H", total) + tcp[18:]


def throughputs(line: Line, seconds: float, rounds: int, family: int) -> dict[str, list[float]]:
    """Bytes a second of one real TCP connection that lives through all rounds, in slices of each ruleset.

    Sender and receiver have a core each and short slices take turns: what the scheduler does and what else
    the machine does moves a single slice by a tenth and more. `AGAIN` shows what that leaves between equals.
    """
    found: dict[str, list[float]] = {name: [] for name in THROUGHPUT}
    with _stream(line, family) as client:
        for number in range(rounds):
            for name in list(THROUGHPUT)[::1 if number % 2 else -1]:
                line.load(THROUGHPUT[name])
                client.sendall(CHUNK)
                found[name].append(_throughput(client, seconds))
    return found


@contextmanager
def _stream(line: Line, family: int) -> Iterator[socket.socket]:
    """A connection through the router into a process that only receives."""
    kind, to = ENDS[family]
    cores = sorted(os.sched_getaffinity(0))
    with line.outside.call(socket.create_server, ("", PORT), family=kind) as listener:
        client = line.host.call(socket.create_connection, (to, PORT), 5)
        server, _ = listener.accept()
    with client, server:
        if not (child := os.fork()):
            _receive(server, client, cores[-1])
        os.sched_setaffinity(0, cores[:1])
        try:
            yield client
        finally:
            os.sched_setaffinity(0, cores)
            client.shutdown(socket.SHUT_RDWR)
            os.waitpid(child, 0)


def _receive(server: socket.socket, client: socket.socket, core: int) -> None:
    """All that the child does; it ends with the connection."""
    try:
        os.sched_setaffinity(0, [core])
        client.close()
        buffer = bytearray(1 << 20)
        while server.recv_into(buffer):
            pass
    finally:
        os._exit(0)


def _throughput(client: socket.socket, seconds: float) -> float:
    sent, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        client.sendall(CHUNK)
        sent += len(CHUNK)
    return sent / (time.monotonic() - began)


def ratios(values: dict[str, list[float]]) -> dict[str, float]:
    """Each relative to no egressguard, the median of the rounds'."""
    return {name: statistics.median(b / a for a, b in zip(values[NONE], found, strict=True))
            for name, found in values.items() if name != NONE}
