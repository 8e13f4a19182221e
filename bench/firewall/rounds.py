"""The daemon's round with many active hosts: real packets, the real kernel, a real database."""

import statistics
import tempfile
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from bench.firewall.packets import Bench, inventory_address
from egressguard.boot import boot_id
from egressguard.config import Site
from egressguard.controller import Controller
from egressguard.core.settings import Inside, Machine, Settings
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.exchange import open_exchange
from egressguard.kernel import Netfilter
from lab.network import SOMEBODY6, World

RULES = Path(__file__).parents[2] / "rules/egressguard.nft"
NETWORK = ip_network("2001:db8:1000::/36")


def measure(hosts: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds of a round in which every host had made an attempt, and of one in which none had."""
    machines = tuple(Machine(f"h{n}", (inventory_address(n),)) for n in range(hosts))
    site = Site(Settings(inside=(Inside(("web",), (NETWORK,)),), host=machines), RULES)
    bench = Bench(hosts, rounds)
    with World() as world, tempfile.TemporaryDirectory(prefix="eg-bench-") as name:
        world.router.ip(f"route add {NETWORK} dev web")
        busy, quiet = world.router.call(_rounds, world, bench, site, Path(name))
    bench.close()
    median = statistics.median
    return {"hosts": hosts, "cpu_ms": 1000 * median(busy), "quiet_ms": 1000 * median(quiet)}


def _rounds(world: World, bench: Bench, site: Site, folder: Path
            ) -> tuple[list[float], list[float]]:
    kernel, database = Netfilter(), Database(folder / "router.db", boot_id())
    controller = Controller(Enforcement(site, kernel, database, boot_id()), kernel, database,
                            lambda: open_exchange(f"sqlite:{folder}/exchange.db"))
    controller.start(0.0)
    hosts = [machine.addresses[0] for machine in site.settings.host]
    busy, quiet = [], []
    for n in range(bench.rounds + 1):
        bench.send(world, hosts, [ip_address(SOMEBODY6)], len(hosts))
        busy.append(_cpu_s(controller, 3.0 * n))
        quiet.append(_cpu_s(controller, 3.0 * n + 1))
    controller.close(0.0)
    database.close()
    kernel.close()
    return busy[1:], quiet[1:]  # the first meets every destination for the first time


def _cpu_s(controller: Controller, now_s: float) -> float:
    began = time.process_time()
    pulse = controller.round(now_s)
    if pulse.faults:
        raise RuntimeError(f"the round failed: {pulse.faults}")
    return time.process_time() - began
