"""Reading all counters beside `nft -j list set`, and changing one element among many.

Each reader is a process of its own, so that its CPU time and its peak memory are its own; what an empty run
of the same program costs is taken off.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.firewall.packets import inventory_address
from egressguard.core.shards import spread
from egressguard.kernel import Netfilter, nft
from lab.namespaces import Namespace

RULES = (Path(__file__).parents[2] / "rules/egressguard.nft").read_text("utf-8")
BATCH = 50_000


PLAIN = """table inet plain {
    set known6 { type ipv6_addr; counter; }
}
"""


def fill(hosts: int) -> None:
    """Loads the rules with an inventory of so many hosts into this network namespace, and beside them a plain
    set of the same hosts, which is what whoever knows no better would list.
    """
    nft.apply(RULES + PLAIN, "loading")
    for start in range(0, hosts, BATCH):
        shards = spread(inventory_address(n) for n in range(start, min(hosts, start + BATCH)))
        elements = ", ".join(a for shard in shards.values() for a, in shard)
        nft.apply(f"add element inet plain known6 {{ {elements} }}\n", "filling")
        nft.apply("".join(f"add element inet egressguard {name} {{ {', '.join(a for a, in shard)} }}\n"
                          for name, shard in shards.items() if shard), "filling")


def measure(hosts: int, rounds: int) -> dict[str, float]:
    """Seconds of CPU and MB of memory of both readers, and what one changed element takes."""
    with Namespace("bench") as namespace:
        namespace.call(fill, hosts)
        runs = [(_child(namespace, "ours"), _child(namespace, "nft")) for _ in range(rounds)]
        ours, theirs = ([run[n] for run in runs] for n in (0, 1))
        changes = [namespace.call(_change_one, n) for n in range(rounds)]
    median = statistics.median
    return {
        "hosts": hosts,
        "first_s": median(run["first_s"] for run in ours),
        "ours_s": median(run["seconds"] for run in ours), "nft_s": median(run["seconds"] for run in theirs),
        "ours_mb": median(run["mb"] for run in ours), "nft_mb": median(run["mb"] for run in theirs),
        "change_ms": 1000 * median(changes),
    }


def _child(namespace: Namespace, reader: str) -> dict[str, float]:
    done = namespace.run([sys.executable, "-m", "bench.firewall.reading", reader])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _change_one(number: int) -> float:
    began = time.perf_counter()
    nft.apply(f"add element inet egressguard known6_00 {{ 2001:db8:ffff:{number}:: }}\n", "changing one")
    return time.perf_counter() - began


def read_ours() -> dict[str, float]:
    """A sample as the daemon takes it every second, and the first of a process, which makes hosts' texts,
    in CPU seconds; and what it adds to this process's memory.
    """
    kernel = Netfilter()
    before_mb = _resident_mb()
    began = time.process_time()
    kernel.sample(0.0)
    first_s = time.process_time() - began
    began = time.process_time()
    sample = kernel.sample(1.0)
    result = {"seconds": time.process_time() - began, "first_s": first_s, "mb": _resident_mb() - before_mb}
    del sample
    kernel.close()
    return result


def read_nft() -> dict[str, float]:
    """One `nft -j list set`, less an nft that reads nothing."""
    costs = []
    for command in (["nft", "-v"],
                    ["nft", "-j", "list", "set", "inet", "plain", "known6"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                      _peak_mb(resource.RUSAGE_CHILDREN)))
    return {"seconds": costs[1][0] - costs[0][0], "mb": costs[1][1] - costs[0][1]}


def _resident_mb() -> float:
    """What this process holds now; its peak would be that of the process that started it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(read_ours() if sys.argv[1] == "ours" else read_nft()))
