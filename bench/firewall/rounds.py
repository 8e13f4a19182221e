"""The daemon's round with many active hosts: real packets, the real kernel, a real database."""

import json
import resource
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from bench.firewall.packets import inventory_address
from egressguard.boot import boot_id
from egressguard.config import Site
from egressguard.controller import Controller
from egressguard.core import detection
from egressguard.core.settings import Inside, Machine, Settings
from egressguard.core.tables import ROUTER
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.exchange import open_exchange
from egressguard.kernel import Netfilter
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.sets import read_columns
from lab.network import ROUTER_MAC, SOMEBODY6, WEB2, World
from lab.syns import Wire, addresses, frames, pour

ALL_WEIGHED = 40  # rounds after which nothing waits any more
RULES = Path(__file__).parents[2] / "rules/egressguard.nft"
NETWORK = ip_network("2001:db8:1000::/36")


@dataclass(frozen=True)
class Round:
    """CPU milliseconds of the daemon's rounds, one a second, how much of that is the judge's, and the memory
    of the process that ran them. `floor_ms` is what it costs to read the same counters and to add them up,
    which is the least that a round in Python can cost. `ensure_ms` is one comparison of all rules and
    elements with what should be there: every five seconds, and after each change, a round makes one.
    """

    inventory: int
    active: int
    busy_ms: float
    judge_ms: float
    worst_ms: float
    quiet_ms: float
    floor_ms: float
    first_ms: float
    ensure_ms: float
    mb: float


def measure(inventory: int, active: int, seconds: int) -> Round:
    """Rounds in which `active` hosts of `inventory` made an attempt each, the mean and the worst; and rounds
    in which none did. The first round meets every destination for the first time and is told apart.

    Each host tries the same destination in every second, as a program does that tries again and again: that
    moves every counter in every round. All comparisons and records that come every few seconds are in it.
    """
    machines = tuple(Machine(f"h{n}", (inventory_address(n),)) for n in range(inventory))
    site = Site(Settings(inside=(Inside(("web",), (NETWORK,)),), host=machines), RULES)
    judged = _watch_the_judge()
    with World() as world, tempfile.TemporaryDirectory(prefix="eg-bench-") as name:
        world.router.ip(f"route add {NETWORK} dev web")
        return world.router.call(_rounds, world, site, Path(name), active, seconds, judged)


def _watch_the_judge() -> list[float]:
    """CPU seconds of the judge each time that it is called from now on."""
    took: list[float] = []
    judge = detection.judge

    def watched(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return judge(*args, **kwargs)
        finally:
            took.append(time.process_time() - began)

    detection.judge = watched
    return took


def _rounds(world: World, site: Site, folder: Path, active: int, seconds: int, judged: list[float]) -> Round:
    kernel, database = Netfilter(), Database(folder / "router.db", boot_id())
    enforcement = Enforcement(site, kernel, database, boot_id())
    controller = Controller(enforcement, kernel, database,
                            lambda: open_exchange(f"sqlite:{folder}/exchange.db"))
    controller.start(0.0)
    hosts = [str(machine.addresses[0]) for machine in site.settings.host[:active]]
    _attempt(world, hosts)
    first_s = _cpu_s(controller, 0)
    judged.clear()
    busy = []
    for n in range(1, seconds + 1):
        _attempt(world, hosts)
        busy.append(_cpu_s(controller, n))
    judge_s = sum(judged) / seconds
    floor = [_floor_s() for _ in range(seconds)]
    rest = [_cpu_s(controller, n) for n in range(seconds + 1, 3 * seconds + ALL_WEIGHED)]
    ensure = [_ensure_s(enforcement, 4 * seconds + ALL_WEIGHED) for _ in range(5)]
    controller.close(0.0)
    _check(database, active * (seconds + 1))
    database.close()
    kernel.close()
    cpu_s = (statistics.mean(busy), judge_s, max(busy), statistics.median(rest[-seconds:]),
             statistics.median(floor), first_s, statistics.median(ensure))
    return Round(len(site.settings.host), active, *(1000 * s for s in cpu_s),
                 resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _ensure_s(enforcement: Enforcement, now_s: float) -> float:
    """CPU seconds of a comparison that finds all as it should be."""
    enforcement.adopt(enforcement.site)
    began = time.process_time()
    if enforcement.ensure(now_s) is not None:
        raise RuntimeError("something was wrong in the kernel")
    return time.process_time() - began


def _check(database: Database, made: int) -> None:
    counted = sum(verdict.attempts for verdict in database.verdicts(0.0).values())
    if counted != made:
        raise RuntimeError(f"{made} attempts were made, {counted} were recorded")


def _floor_s() -> float:
    """CPU seconds to read the inventory's counters and to add them up, and to do nothing else."""
    netlink = Netlink()
    try:
        began = time.process_time()
        for name in ROUTER.inventory:
            sum(sum(packets) for _, packets in read_columns(netlink, name))
        return time.process_time() - began
    finally:
        netlink.close()


def _attempt(world: World, hosts: list[str]) -> None:
    """One SYN of each host, from web2's wire."""
    made = frames(Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), addresses(hosts), [ip_address(SOMEBODY6)],
                  len(hosts), 25)
    with world.web2.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind(("eth0", 0))
        if pour(raw, made, len(made), 0, 60) != len(hosts):
            raise RuntimeError("not every SYN was sent")


def _cpu_s(controller: Controller, now_s: float) -> float:
    began = time.process_time()
    pulse = controller.round(now_s)
    if pulse.faults:
        raise RuntimeError(f"the round failed: {pulse.faults}")
    return time.process_time() - began


def main() -> None:
    """One measurement in a process of its own, so that its memory is its own: INVENTORY ACTIVE SECONDS."""
    print(json.dumps(asdict(measure(*map(int, sys.argv[1:])))))


if __name__ == "__main__":
    main()
