"""`script/bench judge`: how many spambots are found, how soon, and how many others are called one."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.judge.classes import CLASSES, WITHOUT_TARGET
from bench.judge.figures import CONFIDENCE, Figures, figures, interval, is_bot
from bench.judge.parameters import EVALUATION, Parameters, perturbed
from bench.judge.run import COUNT_THRESHOLD, SHARE_OF_AT_LEAST, SHARE_THRESHOLD, Outcome, simulate
from bench.judge.targets import Target, calibration, targets
from egressguard.core.settings import Detection
from egressguard.core.verdict import Cause

EVALUATION_SEEDS = 1_000_000  # from here on; weights were chosen on seeds below, and on other ranges
# Long or busy lives, so fewer of them; the figures say how many host-months there were.
SHARE_OF_HOSTS = {"monitoring": 0.3, "lost mailertable": 0.2, "just-blocked server": 0.2, "NAT": 0.5,
                  "IPv6 privacy": 0.5, "DHCP, after a spambot": 0.5, "spambot, behind NAT": 0.5,
                  "mail server nobody knew": 0.1}


def main() -> None:
    """Simulates, prints, writes; exits with 1 when a target is missed."""
    options = arguments()
    began, detection = time.monotonic(), Detection()
    with ProcessPoolExecutor(options.processes) as pool:
        found = {name: everyone(pool, name, EVALUATION, options.hosts) for name in CLASSES}
        table(found)
        aims = targets(found, detection)
        sums(found, aims, detection)
        stretched = robustness(pool, options.perturbed) if options.perturbed else {}
    print(f"\n{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({
            "classes": {n: asdict(figures(o)) for n, o in found.items()},
            "targets": [asdict(t) for t in aims], "perturbed": stretched}, indent=1) + "\n")
    missed = [t.what for t in aims if not t.reached]
    if missed:
        sys.exit("judge: missed: " + "; ".join(missed))


def arguments() -> argparse.Namespace:
    """The sizes; the defaults take a few minutes on two cores."""
    parser = argparse.ArgumentParser(prog="script/bench judge", description=__doc__)
    parser.add_argument("--hosts", type=int, default=4000, help="of each class")
    parser.add_argument("--perturbed", type=int, default=40, help="hosts of a class, per assumption")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def everyone(pool: ProcessPoolExecutor, name: str, p: Parameters, hosts: int) -> list[Outcome]:
    """The outcomes of `hosts` hosts of a class, on seeds that nothing was chosen on."""
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + max(20, int(hosts * SHARE_OF_HOSTS.get(name, 1))))
    one = partial(simulate, name, p, detection=Detection())
    return list(pool.map(one, seeds, chunksize=max(1, len(seeds) // 64)))


def table(found: dict[str, list[Outcome]]) -> None:
    """The two tables of classes."""
    print(f"Thresholds beside the judge, within ten minutes: {COUNT_THRESHOLD} attempts; or "
          f"{SHARE_THRESHOLD:.0%} of at least {SHARE_OF_AT_LEAST} attempts new.\n\n"
          f"{'':<37} called compromised        attempts      limited      seconds      "
          f"held    cause     by thresholds\n"
          f"{'spambots':<30} {'hosts':>6}  share   ({CONFIDENCE:.0%} interval)    median  p95     after  "
          f"median     p95            right     count    share")
    for name, outcomes in found.items():
        if is_bot(outcomes):
            bot_line(name, figures(outcomes))
    print(f"\n{'others':<30} {'hosts':>6} {'months':>7}  alarms   a month (interval)        suspected   "
          "held   cause right   alarms of the thresholds, a month")
    for name, outcomes in found.items():
        if not is_bot(outcomes):
            benign_line(name, figures(outcomes))


def bot_line(name: str, f: Figures) -> None:
    """One class of spambots."""
    low, high = f.interval
    attempts, seconds, limited = f.attempts or (0, 0), f.seconds or (0, 0), f.limited or (0, 0)
    print(f"{name:<30} {f.hosts:>6} {f.share:>6.1%}  ({low:.2%} to {high:.2%}) {attempts[0]:>9.0f} "
          f"{attempts[1]:>4.0f} {limited[0]:>9.0f} {seconds[0]:>7.0f} {seconds[1]:>7.0f} "
          f"{f.held / f.hosts:>9.1%} {f.right_cause:>8.1%} {f.by_count / f.hosts:>9.1%} "
          f"{f.by_share / f.hosts:>8.1%}", flush=True)


def benign_line(name: str, f: Figures) -> None:
    """One class of hosts that are none."""
    months = f.hosts * f.days / 30
    low, high = interval(f.found, f.hosts)
    print(f"{name:<30} {f.hosts:>6} {months:>7.0f} {f.found:>7} {f.per_month(f.found):>9.4f} "
          f"({low * f.hosts / months:.4f} to {high * f.hosts / months:.4f}) {f.suspected / f.hosts:>9.1%} "
          f"{f.held:>6} {f.right_cause:>12.1%} {f.per_month(f.by_count):>14.2f} "
          f"{f.per_month(f.by_share):>10.2f}", flush=True)


def sums(found: dict[str, list[Outcome]], aims: Sequence[Target], detection: Detection) -> None:
    """What is aimed at, what has no target and why, and what stands beside it."""
    print(f"\n{'over all classes that have a target; intervals of ' + format(CONFIDENCE, '.0%'):<74} "
          f"{'aimed at':>10}  reached")
    for aim in aims:
        print(f"  {aim.what:<74} {aim.value:<44} {aim.aim:>10}  {aim.state}")
    for name, why in WITHOUT_TARGET.items():
        print(f"  without a target, {name}: {why}")
    everybody = [o for outcomes in found.values() for o in outcomes]
    bots = [o for o in everybody if o.truth is Cause.SPAMBOT]
    caught = sum(o.attempts is not None for o in bots)
    called = sum(o.attempts is not None for o in everybody)
    print(f"\nbeside SPOT (Duan et al.): found {caught / len(bots):.4f}, there 0.947; alarms that are "
          f"spambots, in this mixture {caught / max(1, called):.4f}, there 0.95 confirmed\n"
          "benign hosts that reach the bound of α with what nobody can forge, were a listener to answer all:")
    for alpha, k, n in calibration(found, detection):
        low, high = interval(k, n)
        print(f"  α = {alpha:<8g} {k / n:.6f} ({low:.6f} to {high:.6f}; {k} of {n})")


def robustness(pool: ProcessPoolExecutor, hosts: int) -> dict[str, Any]:
    """The same with one assumption stretched: where the judge breaks."""
    names = [n for n in CLASSES if n not in (*WITHOUT_TARGET, "spambot, IPv6 privacy", "IPv6 privacy")]
    bots = [n for n in names if n.startswith("spambot")]
    benign = [n for n in names if n not in bots]
    print(f"\n{hosts} hosts of each class with one assumption stretched: share called compromised\n{'':<36}"
          + "".join(f"{n.removeprefix('spambot, ')[:12]:>13}" for n in (*bots, *benign)))
    result: dict[str, Any] = {}
    for title, p in perturbed().items():
        row = {n: figures(followed(pool, n, p, hosts)).share for n in (*bots, *benign)}
        result[title] = row
        print(f"{title:<36}" + "".join(f"{row[n]:>13.1%}" for n in row), flush=True)
    return result


def followed(pool: ProcessPoolExecutor, name: str, p: Parameters, hosts: int) -> Sequence[Outcome]:
    """A smaller sample."""
    one = partial(simulate, name, p, detection=Detection())
    return list(pool.map(one, range(2 * EVALUATION_SEEDS, 2 * EVALUATION_SEEDS + hosts), chunksize=4))


if __name__ == "__main__":
    main()
