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
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.exchange import open_exchange
from egressguard.kernel import Netfilter
from lab.network import ROUTER_MAC, SOMEBODY6, WEB2, World
from lab.syns import Wire, addresses, frames, pour

RULES = Path(__file__).parents[2] / "rules/egressguard.nft"
NETWORK = ip_network("2001:db8:1000::/36")


@dataclass(frozen=True)
class Round:
    """CPU milliseconds of the daemon's rounds, one a second, how much of that is the judge's, and the memory
    of the process that ran them.
    """

    inventory: int
    active: int
    busy_ms: float
    judge_ms: float
    worst_ms: float
    quiet_ms: float
    mb: float


def measure(inventory: int, active: int, seconds: int) -> Round:
    """Rounds in which `active` hosts of `inventory` made an attempt each, the mean and the worst; and rounds
    in which none did. The first round meets every destination for the first time and is left out.
    """
    machines = tuple(Machine(f"h{n}", (inventory_address(n),)) for n in range(inventory))
    site = Site(Settings(inside=(Inside(("web",), (NETWORK,)),), host=machines), RULES)
    judged = _watch_the_judge()
    with World() as world, tempfile.TemporaryDirectory(prefix="eg-bench-") as name:
        world.router.ip(f"route add {NETWORK} dev web")
        busy, quiet, mb = world.router.call(_rounds, world, site, Path(name), active, seconds)
    judge_s = statistics.mean(judged[1:seconds + 1])
    return Round(inventory, active, 1000 * statistics.mean(busy), 1000 * judge_s, 1000 * max(busy),
                 1000 * statistics.median(quiet), mb)


def _watch_the_judge() -> list[float]:
    """CPU seconds of the judge in each round from now on."""
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


def _rounds(world: World, site: Site, folder: Path, active: int, seconds: int
            ) -> tuple[list[float], list[float], float]:
    kernel, database = Netfilter(), Database(folder / "router.db", boot_id())
    controller = Controller(Enforcement(site, kernel, database, boot_id()), kernel, database,
                            lambda: open_exchange(f"sqlite:{folder}/exchange.db"))
    controller.start(0.0)
    hosts = [str(machine.addresses[0]) for machine in site.settings.host[:active]]
    busy, quiet = [], []
    for n in range(seconds + 1):
        _attempt(world, hosts)
        busy.append(_cpu_s(controller, n))
    for n in range(seconds + 1, 2 * seconds + 1):
        quiet.append(_cpu_s(controller, n))
    controller.close(0.0)
    database.close()
    kernel.close()
    return busy[1:], quiet, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
