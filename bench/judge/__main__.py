"""`script/bench judge`: how many spambots are found, how soon, and how many others are called one."""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.judge.figures import BENIGN_TARGET, CONFIDENCE, Figures, figures, interval, is_bot
from bench.judge.hosts import CLASSES
from bench.judge.parameters import EVALUATION, Parameters, perturbed
from bench.judge.run import COUNT_THRESHOLD, SHARE_OF_AT_LEAST, SHARE_THRESHOLD, Outcome, simulate
from egressguard.core.settings import Detection

EVALUATION_SEEDS = 1_000_000  # from here on; weights were chosen on seeds below, and on other ranges
WITHOUT_TARGET = ("spambot, host mails by relay", "spambot, just blocked", "mail server nobody knew")
# Long or busy lives, so fewer of them; the figures say how many host-months there were.
SHARE_OF_HOSTS = {"monitoring": 0.3, "lost mailertable": 0.2, "just-blocked server": 0.2, "NAT": 0.5}


def main() -> None:
    """Simulates, prints, writes."""
    options = arguments()
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        found = {name: everyone(pool, name, EVALUATION, options.hosts) for name in CLASSES}
        table(found)
        stretched = robustness(pool, options.perturbed) if options.perturbed else {}
    print(f"\n{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({
            "classes": {n: asdict(figures(o)) for n, o in found.items()}, "perturbed": stretched},
            indent=1) + "\n")


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
    """The two tables, and the sums that the targets are about."""
    detection = Detection()
    print(f"Thresholds beside the judge, within ten minutes: {COUNT_THRESHOLD} attempts; or "
          f"{SHARE_THRESHOLD:.0%} of at least {SHARE_OF_AT_LEAST} attempts new.\n\n"
          f"{'':<37} called compromised        attempts      "
          f"seconds         cause     by thresholds\n{'spambots':<30} {'hosts':>6}  share   "
          f"({CONFIDENCE:.0%} interval)    median  p95  median     p95    right     count    share")
    for name, outcomes in found.items():
        if is_bot(outcomes):
            bot_line(name, figures(outcomes))
    print(f"\n{'others':<30} {'hosts':>6} {'months':>7}  alarms   a month (interval)        suspected   "
          "cause right   alarms of the thresholds, a month")
    for name, outcomes in found.items():
        if not is_bot(outcomes):
            benign_line(name, figures(outcomes))
    sums(found, detection)


def bot_line(name: str, f: Figures) -> None:
    """One class of spambots."""
    low, high = f.interval
    attempts, seconds = f.attempts or (0, 0), f.seconds or (0, 0)
    print(f"{name:<30} {f.hosts:>6} {f.share:>6.1%}  ({low:.2%} to {high:.2%}) {attempts[0]:>9.0f} "
          f"{attempts[1]:>4.0f} {seconds[0]:>7.0f} {seconds[1]:>7.0f} {f.right_cause:>8.1%} "
          f"{f.by_count / f.hosts:>9.1%} {f.by_share / f.hosts:>8.1%}", flush=True)


def benign_line(name: str, f: Figures) -> None:
    """One class of hosts that are none."""
    months = f.hosts * f.days / 30
    low, high = interval(f.found, f.hosts)
    print(f"{name:<30} {f.hosts:>6} {months:>7.0f} {f.found:>7} {f.per_month(f.found):>9.4f} "
          f"({low * f.hosts / months:.4f} to {high * f.hosts / months:.4f}) {f.suspected / f.hosts:>9.1%} "
          f"{f.right_cause:>12.1%} {f.per_month(f.by_count):>14.2f} {f.per_month(f.by_share):>10.2f}",
          flush=True)


def sums(found: dict[str, list[Outcome]], detection: Detection) -> None:
    """What is aimed at, over the classes that it is about."""
    counted = {n: o for n, o in found.items() if n not in WITHOUT_TARGET}
    bots = [o for outcomes in counted.values() if is_bot(outcomes) for o in outcomes]
    benign = [o for outcomes in counted.values() if not is_bot(outcomes) for o in outcomes]
    missed, alarms = sum(o.attempts is None for o in bots), sum(o.attempts is not None for o in benign)
    months = sum(o.days for o in benign) / 30
    fan_out = figures(found["spambot, fast"]).attempts or (0, 0)
    judged = [o for o in (*bots, *benign) if o.judged]
    right = sum(o.cause is o.truth for o in judged) / len(judged)
    suspected = sum(o.suspect for o in benign)
    print(f"\n{'over all classes but ' + ', '.join(WITHOUT_TARGET)}:")
    line("detection", f"{1 - missed / len(bots):.4f}", "≥ 0.99 (SPOT, Duan et al.: 0.947)")
    line("missed, against β", share(missed, len(bots)), f"≤ {detection.missed}")
    line("benign hosts called compromised, against α", share(alarms, len(benign)),
         f"≤ {detection.false_alarm}")
    line("false alarms per host-month", f"{alarms / months:.5f} in {months:.0f} host-months",
         f"≤ {BENIGN_TARGET}")
    line("benign hosts ever suspected, against its α", share(suspected, len(benign)),
         f"≤ {detection.suspect_false_alarm}")
    line("median attempts to `compromised`, fast bot", f"{fan_out[0]:.0f}", "≤ 6")
    line("cause right", f"{right:.4f}", "≥ 0.9")
    confirmed = 1 - alarms / max(1, alarms + len(bots) - missed)
    line("alarms that are spambots, in this mixture", f"{confirmed:.4f}",
         "(SPOT: 0.95 confirmed, in its own)")


def line(what: str, value: str, target: str) -> None:
    """One sum beside its target."""
    print(f"  {what:<46} {value:<44} {target}")


def share(k: int, n: int) -> str:
    """A share with its interval."""
    low, high = interval(k, n)
    return f"{k / n:.5f} ({low:.5f} to {high:.5f}; {k} of {n})"


def robustness(pool: ProcessPoolExecutor, hosts: int) -> dict[str, Any]:
    """The same with one assumption stretched: where the judge breaks."""
    names = [n for n in CLASSES if n not in WITHOUT_TARGET and n != "spambot, IPv6 privacy"]
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
