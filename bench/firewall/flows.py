"""An established connection to another port, through the router with and without egressguard: how many
packets a second, and how many bytes. Connection tracking is on in both.
"""

import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.firewall.line import ACK, FLAGS_AT, Line
from bench.firewall.packets import TRACKED, egressguard
from egressguard.core.settings import Group
from lab.network import SOMEBODY4, SOMEBODY6
from lab.packets import TCP
from lab.syns import checksum

CHUNK = bytes(1 << 20)
PORT = 8080
NONE = "no egressguard"
RULESETS = {NONE: TRACKED, "egressguard": egressguard(100)}
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


def packet_costs(line: Line, count: int, rounds: int, family: int) -> dict[str, list[float]]:
    """CPU nanoseconds per packet of an established connection, in each round: its last ACK again and again,
    which its receiver takes and does not answer.
    """
    costs: dict[str, list[float]] = {name: [] for name in COMPARED}
    line.load(TRACKED)
    with _connection(line, family) as ack:
        for number in range(rounds):
            for name in list(COMPARED)[::1 if number % 2 else -1]:
                line.load(COMPARED[name])
                line.send([ack], count // 10)
                costs[name].append(line.send([ack], count))
    return costs


@contextmanager
def _connection(line: Line, family: int) -> Iterator[bytes]:
    """A connection through the router, and the frame with which its client completed it."""
    kind, to = (socket.AF_INET6, SOMEBODY6) if family == 6 else (socket.AF_INET, SOMEBODY4)
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


def throughputs(line: Line, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Bytes a second of one real TCP connection, in each round."""
    found: dict[str, list[float]] = {name: [] for name in RULESETS}
    for _ in range(rounds):
        for name, ruleset in RULESETS.items():
            line.load(ruleset)
            found[name].append(_throughput(line, seconds))
    return found


def _throughput(line: Line, seconds: float) -> float:
    listener = line.outside.call(socket.create_server, ("0.0.0.0", 8080))
    client = line.host.call(socket.create_connection, (SOMEBODY4, 8080), 5)
    server, _ = listener.accept()
    received = [0]

    def sink() -> None:
        buffer = bytearray(1 << 20)
        while size := server.recv_into(buffer):
            received[0] += size

    reader = threading.Thread(target=sink)
    reader.start()
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        client.sendall(CHUNK)
    client.close()
    reader.join()
    took_s = time.monotonic() - began
    server.close()
    listener.close()
    return received[0] / took_s


def ratios(values: dict[str, list[float]]) -> dict[str, float]:
    """Each relative to no egressguard, the median of the rounds'."""
    return {name: statistics.median(b / a for a, b in zip(values[NONE], found, strict=True))
            for name, found in values.items() if name != NONE}
