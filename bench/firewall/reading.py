"""Reading all counters beside `nft -j list set`, and changing one element among many.

Each reader is a process of its own, so that its CPU time and its peak memory are its own; what it costs
before it reads (the interpreter with its libraries; nft that lists an empty set) is taken off, told beside.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from bench.firewall.packets import inventory_address
from egressguard.core.shards import spread
from egressguard.kernel import Netfilter, nft
from lab.namespaces import Namespace

RULES = (Path(__file__).parents[2] / "rules/egressguard.nft").read_text("utf-8")
BATCH = 50_000
TOO_MANY_FOR_ONE_SET = 1_000_000


PLAIN = """table inet plain {
    set known6 { type ipv6_addr; counter; }
    set empty6 { type ipv6_addr; counter; }
}
"""
COUNTED = "counter packets {0} bytes {0}60"
# A small process of its own: what a process has ever held counts for the programs that it becomes.
MEASURED = """
import os, sys
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ,
                          file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
_, status, used = os.wait4(process, 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(status != 0)
"""


def fill(hosts: int) -> None:
    """Loads the rules with an inventory of so many hosts into this network namespace, and beside them a plain
    set of the same hosts, which is what whoever knows no better would list.
    """
    nft.apply(RULES + PLAIN, "loading")
    for start in range(0, hosts, BATCH):
        shards = spread(inventory_address(n) for n in range(start, min(hosts, start + BATCH)))
        counted = {name: ", ".join(f"{a} {COUNTED.format(1000 + n)}" for n, (a,) in enumerate(shard))
                   for name, shard in shards.items() if shard}
        if hosts < TOO_MANY_FOR_ONE_SET:
            nft.apply(f"add element inet plain known6 {{ {', '.join(counted.values())} }}\n", "filling")
        nft.apply("".join(f"add element inet egressguard {name} {{ {elements} }}\n"
                          for name, elements in counted.items()), "filling")


def measure(hosts: int, rounds: int) -> dict[str, float]:
    """Seconds of CPU and MB of memory of both readers, and what one changed element takes.

    Without nft's where its set is so large that the kernel alone needs a minute to list it.
    """
    with Namespace("bench") as namespace:
        namespace.call(fill, hosts)
        nft_reads = hosts < TOO_MANY_FOR_ONE_SET
        runs = [(_ours(namespace), _nft(namespace) if nft_reads else {}) for _ in range(rounds)]
        ours, theirs = ([run[n] for run in runs] for n in (0, 1))
        changes = [namespace.call(_change_one, n) for n in range(10)]
    found = {**{f"ours_{key}": statistics.median(run[key] for run in ours) for key in ours[0]},
             **{f"nft_{key}": statistics.median(run[key] for run in theirs) for key in theirs[0]}}
    return {"hosts": hosts, **found, "change_ms": 1000 * statistics.median(changes)}


def _ours(namespace: Namespace) -> dict[str, float]:
    done = namespace.run([sys.executable, "-m", "bench.firewall.reading"])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _nft(namespace: Namespace) -> dict[str, float]:
    """One `nft -j list set`, less one of a set that is empty."""
    floor, full = ([*map(float, namespace.run(
        [sys.executable, "-I", "-S", "-c", MEASURED, "nft", "-j", "list", "set", "inet", "plain", name]
        ).stdout.split())] for name in ("empty6", "known6"))
    return {"s": full[0] - floor[0], "mb": full[1] - floor[1], "floor_mb": floor[1]}


def _change_one(number: int) -> float:
    began = time.perf_counter()
    nft.apply(f"add element inet egressguard known6_00 {{ 2001:db8:ffff:{number}:: }}\n", "changing one")
    return time.perf_counter() - began


def read() -> dict[str, float]:
    """A sample as the daemon takes it every second, and the first of a process, which makes hosts' texts,
    in CPU seconds; and by how much both raised this process's peak memory.
    """
    kernel = Netfilter()
    Path("/proc/self/clear_refs").write_text("5")  # from now on: proc(5)
    floor_mb = _peak_mb()
    began = time.process_time()
    kernel.sample(0.0)
    first_s = time.process_time() - began
    began = time.process_time()
    kernel.sample(1.0)
    result = {"s": time.process_time() - began, "first_s": first_s, "mb": _peak_mb() - floor_mb,
              "floor_mb": floor_mb}
    kernel.close()
    return result


def _peak_mb() -> float:
    """The most this program has held; getrusage would tell that of the process that started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    print(json.dumps(read()))
