"""A router that tracks 100,000 connections: what a packet costs there, and how long it takes to end those to
port 25.
"""

import time
from ipaddress import ip_address
from pathlib import Path

from bench.firewall import flows
from bench.firewall.line import WIRE, Line
from bench.firewall.packets import FEW, TRACKED
from egressguard.kernel.conntrack import Conntrack
from lab.network import WEB2
from lab.syns import frames

CONNECTIONS, SMTP_CONNECTIONS = 100_000, 1000
PORTS = (8081, 8082)  # of half of them each
LIFE_S = 3600
SILENT = """table inet silent {
    chain c {
        type filter hook input priority 0
        tcp dport { 25, 8081, 8082 } drop
    }
}
"""


def fill(line: Line) -> int:
    """Makes the router track so many connections that nobody has answered yet; how many it tracks then."""
    line.load(TRACKED)
    line.outside.run(["nft", "-f", "-"], stdin=SILENT)
    line.router.sysctl({"net.netfilter.nf_conntrack_tcp_timeout_syn_sent": LIFE_S})
    for port in PORTS:
        _begin(line, CONNECTIONS // len(PORTS), port)
    return tracked(line)


def tracked(line: Line) -> int:
    """How many connections the router tracks."""
    return int(line.router.call(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text))


def _begin(line: Line, count: int, port: int) -> None:
    made = frames(WIRE, [ip_address(WEB2.ipv4)], FEW[4], count, port)
    line.send(made, count)


def packet_costs(line: Line, count: int, rounds: int, family: int) -> dict[str, list[float]]:
    """As `flows.packet_costs`, beside all these connections."""
    return flows.packet_costs(line, count, rounds, family, flows.RULESETS)


def cut_s(line: Line) -> float:
    """Seconds until the connections to port 25 are found among all, and ended."""
    line.load(TRACKED)
    _begin(line, SMTP_CONNECTIONS, 25)
    conntrack = line.router.call(Conntrack)
    began = time.perf_counter()
    ended = conntrack.end([25], lambda _: True)
    took_s = time.perf_counter() - began
    conntrack.close()
    if len(ended) != SMTP_CONNECTIONS:
        raise RuntimeError(f"{SMTP_CONNECTIONS} connections to port 25 were begun, {len(ended)} were ended")
    return took_s
