"""What a packet costs under different rulesets, as ratios of medians of interleaved runs.

The cost of a ruleset is the CPU time per packet less that of a drop at the router's door, which holds what
sending costs. The unit is a bare drop in the forward hook with connection tracking on, as on any router
that filters or translates.
"""

import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from egressguard.core.plan import diff, transaction
from egressguard.core.policy import desired
from egressguard.core.ruleset import CONFIGURED
from egressguard.core.settings import Inside, Machine, Settings
from lab.network import ROUTER_MAC, WEB2, World
from lab.syns import MOST_FRAMES, Address, Wire, frames

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "rules/egressguard.nft").read_text("utf-8")
FLOOR = """table netdev floor {
    chain c { type filter hook ingress device "web" priority 0; drop; }
}
"""
BARE = """table inet bare {
    chain c { type filter hook forward priority -10; tcp dport 25 drop; }
    chain tracking { type filter hook forward priority 0; ct state established accept; }
}
"""
TRACKED = """table inet tracked {
    chain c { type filter hook forward priority 0; ct state established accept; }
}
"""
OTHER_PORT = 8080
INVENTORY = int(IPv6Address("2001:db8:1000::"))


@dataclass(frozen=True)
class Ruleset:
    """A name for the table, what loads it into the router, and the port that is knocked at."""

    name: str
    load: Callable[[World], None]
    port: int = 25


def nft(text: str) -> Callable[[World], None]:
    """Loads `text` with nft."""
    def load(world: World) -> None:
        world.router.run(["nft", "-f", "-"], stdin=text)
    return load


def egressguard(hosts: int) -> str:
    """The rules with an inventory of so many IPv6 hosts, and web2."""
    machines = (*(Machine(f"h{n}", (inventory_address(n),)) for n in range(hosts)),
                Machine("web2", (ip_address(WEB2.ipv4),)))
    settings = Settings(inside=(Inside(("web",), ()),), host=machines)
    return RULES + transaction(diff({name: frozenset() for name in CONFIGURED}, desired(settings)))


def inventory_address(number: int) -> IPv6Address:
    """The address of the host with this number; each has a /64 of its own, outside the lab's."""
    return IPv6Address(INVENTORY + (number << 64))


def iptables(chain_length: int) -> Callable[[World], None]:
    """The way of long chains: one rule for each host, as iptables-nft translates it."""
    rules = "".join(f"-A FORWARD -p tcp --dport 25 -s 192.0.2.{n % 250 + 1} -j DROP\n"
                    for n in range(chain_length))
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n{rules}-A FORWARD -p tcp --dport 25 -j DROP\nCOMMIT\n"
    def load(world: World) -> None:
        world.router.run(["iptables-nft-restore"], stdin=text)
    return load


BLOCKED = (
    Ruleset("drop at the door (floor)", nft(FLOOR)),
    Ruleset("bare forward drop", nft(BARE)),
    Ruleset("egressguard, 100 hosts", nft(egressguard(100))),
    Ruleset("egressguard, 100,000 hosts", nft(egressguard(100_000))),
    Ruleset("iptables-nft, 1,000 rules", iptables(1000)),
)
PASSING = (
    Ruleset("drop at the door (floor)", nft(FLOOR), OTHER_PORT),
    Ruleset("no egressguard, conntrack on", nft(TRACKED), OTHER_PORT),
    Ruleset("egressguard, conntrack on", nft(TRACKED + egressguard(100)), OTHER_PORT),
)


class Bench:
    """A flood program, compiled once, and the world it runs in."""

    def __init__(self, count: int, rounds: int) -> None:
        self.count, self.rounds = count, rounds
        self._folder = tempfile.TemporaryDirectory(prefix="eg-bench-")
        self._flood = Path(self._folder.name, "flood")
        source = Path(__file__).with_name("flood.c")
        subprocess.run(["cc", "-O2", "-o", self._flood, source], check=True)

    def close(self) -> None:
        """Removes the program."""
        self._folder.cleanup()

    def costs_ns(self, rulesets: tuple[Ruleset, ...]) -> dict[str, list[float]]:
        """CPU nanoseconds per packet of every ruleset in every round, in turn."""
        costs: dict[str, list[float]] = {ruleset.name: [] for ruleset in rulesets}
        with World() as world:
            for _ in range(self.rounds):
                for ruleset in rulesets:
                    world.router.run(["nft", "flush", "ruleset"])
                    ruleset.load(world)
                    costs[ruleset.name].append(self._run(world, ruleset.port))
        return costs

    def _run(self, world: World, port: int) -> float:
        destinations = [ip_address(f"203.0.113.{n}") for n in range(130, 194)]
        return self.send(world, [ip_address(WEB2.ipv4)], destinations, self.count, port)

    def send(self, world: World, sources: Sequence[Address], destinations: Sequence[Address], count: int,
             port: int = 25) -> float:
        """Sends SYNs from web2's wire; CPU nanoseconds per packet."""
        made = frames(Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources, destinations, MOST_FRAMES, port)
        done = subprocess.run(
            ["nsenter", f"--net={world.web2.path}", self._flood, "eth0", str(len(made[0])), str(count)],
            input=b"".join(made), capture_output=True, check=True)
        return float(done.stdout)


def ratios(costs: dict[str, list[float]]) -> dict[str, float]:
    """The cost of each ruleset above the floor, relative to the second's; medians of the rounds' ratios."""
    floor, unit, *_ = costs
    result = {}
    for name, values in costs.items():
        if name != floor:
            pairs = zip(values, costs[unit], costs[floor], strict=True)
            result[name] = statistics.median((value - low) / (one - low) for value, one, low in pairs)
    return result
