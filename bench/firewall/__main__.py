"""`script/bench firewall`: what packets, reading and changes cost, as ratios that belong to one run."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.firewall import reading, rounds
from bench.firewall.packets import BLOCKED, PASSING, Bench, ratios

TARGETS = {"egressguard, 100 hosts": "≤ 1.10", "egressguard, 100,000 hosts": "≤ 1.10",
           "egressguard, conntrack on": "≤ 1.03"}
READING_TARGETS = {10_000: "≥ 5", 100_000: "≥ 10"}


def main() -> None:
    """Measures, prints, writes."""
    options = arguments()
    began = time.monotonic()
    result = {"packets": packets(options), "reading": counters(options), "round": a_round(options)}
    print(f"\n{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The sizes; the defaults take about two minutes."""
    parser = argparse.ArgumentParser(prog="script/bench firewall", description=__doc__)
    parser.add_argument("--packets", type=int, default=300_000, help="of one run")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved runs; the median counts")
    parser.add_argument("--hosts", type=int, nargs="+", default=[10_000, 100_000], help="in the inventory")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def packets(options: argparse.Namespace) -> dict[str, Any]:
    """Costs per packet, relative to the second line of each table."""
    bench = Bench(options.packets, options.rounds)
    result: dict[str, Any] = {}
    try:
        for title, rulesets in (("blocked SYN", BLOCKED), ("SYN to another port that passes", PASSING)):
            costs = bench.costs_ns(rulesets)
            found = ratios(costs)
            result[title] = {"ns": costs, "ratio": found}
            print(f"\n{title:<34} ns/packet   ratio   target")
            for name, values in costs.items():
                ratio = f"{found[name]:.2f}" if name in found else ""
                print(f"{name:<34} {min(values):>9.0f} {ratio:>7}   {TARGETS.get(name, '')}", flush=True)
    finally:
        bench.close()
    return result


def counters(options: argparse.Namespace) -> list[dict[str, float]]:
    """Reading and changing, at each size."""
    print("\nreading all counters       hosts    ours s     nft s   ratio  target   ours MB   nft MB   "
          "one change ms (target ≤ 5)")
    result = []
    for hosts in options.hosts:
        row = reading.measure(hosts, options.rounds)
        result.append(row)
        print(f"{'':<22} {hosts:>9,} {row['ours_s']:>9.3f} {row['nft_s']:>9.3f} "
              f"{row['nft_s'] / row['ours_s']:>7.1f} {READING_TARGETS.get(hosts, ''):>7} "
              f"{row['ours_mb']:>9.1f} {row['nft_mb']:>8.1f} {row['change_ms']:>10.2f}", flush=True)
    return result


def a_round(options: argparse.Namespace) -> dict[str, float]:
    """The daemon's round."""
    row = rounds.measure(10_000, options.rounds)
    print(f"\nround with 10,000 active hosts   {row['cpu_ms']:.0f} ms CPU, {row['cpu_ms'] / 10:.1f} % of a "
          f"core at a period of 1 s (target ≤ 3 %); a quiet round {row['quiet_ms']:.2f} ms")
    return row


if __name__ == "__main__":
    main()
