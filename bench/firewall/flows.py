"""An established connection to another port, through the router with and without egressguard: how many
packets a second, and how many bytes. Connection tracking is on in both.
"""

import socket
import statistics
import threading
import time
from ipaddress import ip_address

from bench.firewall.line import ACK, IPV4_FLAGS_AT, Line
from bench.firewall.packets import TRACKED, egressguard
from lab.network import SOMEBODY4, WEB2

CHUNK = bytes(1 << 20)
RULESETS = {"no egressguard": TRACKED, "egressguard": egressguard(100)}


def packet_costs(line: Line, count: int, rounds: int) -> dict[str, list[float]]:
    """CPU nanoseconds per packet of an established connection, in each round."""
    line.router.sysctl({"net.netfilter.nf_conntrack_tcp_be_liberal": 1})  # the same packet again and again
    [syn] = line.syns([ip_address(WEB2.ipv4)], [ip_address(SOMEBODY4)], 8080)
    ack = bytearray(syn)
    ack[IPV4_FLAGS_AT] = ACK
    costs: dict[str, list[float]] = {name: [] for name in RULESETS}
    for _ in range(rounds):
        for name, ruleset in RULESETS.items():
            line.load(ruleset)
            line.send([bytes(ack)], 1000)  # connection tracking picks it up
            costs[name].append(line.send([bytes(ack)], count))
    return costs


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


def ratio(values: dict[str, list[float]]) -> float:
    """Egressguard's relative to none, the median of the rounds'."""
    return statistics.median(b / a for a, b in zip(*values.values(), strict=True))
