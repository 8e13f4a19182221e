"""`script/bench firewall`: what packets, reading and changes cost, as ratios that belong to one run."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.firewall import flows, packets, reading
from bench.firewall.line import Line

TARGETS = {"egressguard, 100 hosts": "≤ 1.10", "egressguard, 100,000 hosts": "≤ 1.10"}
MANY = 1_000_000
READING_TARGETS = {10_000: "≥ 5", 100_000: "≥ 10"}
TITLES = {"blocked SYN, 64 destinations": packets.BLOCKED, "what each part costs": packets.PARTS}


def main() -> None:
    """Measures, prints, writes."""
    options = arguments()
    began = time.monotonic()
    result = {name: measure(options) for name, measure in PARTS.items() if name in options.only}
    print(f"\n{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The sizes; the defaults take about three minutes."""
    parser = argparse.ArgumentParser(prog="script/bench firewall", description=__doc__)
    parser.add_argument("--packets", type=int, default=200_000, help="of one run")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs; the median counts")
    parser.add_argument("--hosts", type=int, nargs="+", default=[10_000, 100_000],
                        help="in the inventory; 1000000 takes minutes, most of them nft's")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def blocked(options: argparse.Namespace) -> dict[str, Any]:
    """Costs per packet, relative to the second line of each table."""
    result: dict[str, Any] = {}
    with Line() as line:
        for title, rulesets in TITLES.items():
            costs = packets.costs_ns(line, rulesets, options.packets, options.rounds)
            found = packets.ratios(costs)
            result[title] = {"ns": costs, "ratio": found}
            print(f"\n{title:<40} ns/packet   ratio  target   ratio above the floor")
            for name, values in costs.items():
                plain, above = (f"{ratio:.2f}" for ratio in found[name]) if name in found else ("", "")
                print(f"{name:<40} {min(values):>9.0f} {plain:>7}  {TARGETS.get(name, ''):>6}   {above:>7}",
                      flush=True)
    return result


def established(options: argparse.Namespace) -> dict[str, Any]:
    """A connection to another port, with and without egressguard."""
    result: dict[str, Any] = {}
    print("\nestablished connection to another port, relative to no egressguard, "
          "conntrack on in both (target ≥ 0.97)")
    with Line() as line:
        for family in (4, 6):
            costs = flows.packet_costs(line, options.packets // 4, 4 * options.rounds, family)
            rates = {name: 1 / ratio for name, ratio in flows.ratios(costs).items()}
            result[f"IPv{family}"] = {"ns": costs, "packet_rate": rates}
            for name, rate in rates.items():
                print(f"packet rate, IPv{family}, {name:<40} {rate:>6.3f}", flush=True)
        speeds = flows.throughputs(line, 0.05, 40 * options.rounds)
    result["throughput"] = flows.ratios(speeds)
    for name, ratio in result["throughput"].items():
        print(f"throughput, IPv4, {name:<42} {ratio:>6.3f}", flush=True)
    return {**result, "bytes_per_s": speeds}


def counters(options: argparse.Namespace) -> list[dict[str, float]]:
    """Reading and changing, at each size."""
    print("\nreading all counters: CPU seconds, and by how many MB it raises peak memory (before it: ours "
          "with the\ninterpreter and its libraries, nft's with an empty set); targets: a fifth of memory, "
          "a change in 5 ms")
    print(f"{'hosts':>9} {'ours s':>8} {'first s':>8} {'nft s':>8} {'ratio':>6} {'target':>7} "
          f"{'ours MB':>8} {'nft MB':>8} {'ratio':>6} {'before':>12} {'change ms':>10}")
    result = []
    for hosts in options.hosts:
        row = reading.measure(hosts, min(options.rounds, 3) if hosts < MANY else 1)
        result.append(row)
        print(f"{hosts:>9,} {row['ours_s']:>8.3f} {row['ours_first_s']:>8.3f} {row['nft_s']:>8.3f} "
              f"{row['nft_s'] / row['ours_s']:>6.1f} {READING_TARGETS.get(hosts, ''):>7} "
              f"{row['ours_mb']:>8.1f} {row['nft_mb']:>8.1f} {row['nft_mb'] / row['ours_mb']:>6.1f} "
              f"{row['ours_floor_mb']:>6.0f}/{row['nft_floor_mb']:<5.0f} {row['change_ms']:>10.2f}",
              flush=True)
    return result


def a_round(_: argparse.Namespace) -> list[dict[str, float]]:
    """The daemon's round, in a process of its own."""
    result = []
    print("\nthe daemon's round, one a second; with 10,000 active of 10,000 the target is 30 ms, with "
          "100,000 in the inventory 250 ms and 200 MB; × is relative to reading the same counters")
    for inventory, active in ((10_000, 10_000), (100_000, 10_000)):
        argv = [sys.executable, "-m", "bench.firewall.rounds", str(inventory), str(active), "20"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        result.append(row)
        print(f"inventory {inventory:>7,}, active {active:>6,}: {row['busy_ms']:.0f} ms of CPU (the judge "
              f"{row['judge_ms']:.1f}; worst {row['worst_ms']:.0f}), {row['busy_ms'] / row['floor_ms']:.1f} "
              f"× {row['floor_ms']:.1f} ms; a quiet round {row['quiet_ms']:.2f} ms, the "
              f"first of all {row['first_ms']:.0f} ms; {row['mb']:.0f} MB",
              flush=True)
    return result


PARTS = {"blocked": blocked, "established": established, "reading": counters, "round": a_round}

if __name__ == "__main__":
    main()
