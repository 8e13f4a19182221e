"""Applies a site's rules and elements again and again, and is killed meanwhile: SIGKILL at random instants.

Runs as a process of its own in the router's namespace: `python -m lab.kills`. It forks once for each kill, so
that no start of an interpreter stands between two; it prints what it did as JSON.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from egressguard.boot import boot_id, now_s
from egressguard.config import Site, read_site
from egressguard.core import policy
from egressguard.core.ruleset import CONFIGURED
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.kernel import Netfilter, nft

RULES_EVERY = 6  # the other applies change elements only, which takes less time
LIFE_IN_LOADS = 3.0  # the longest life, in times that one load of the rules takes
BEGIN, END = b"b", b"e"


def apply_for_ever(sites: Sequence[Site], mark: int, first: str) -> NoReturn:
    """Loads the rules and one site after the other; `mark` gets an octet before and after each.

    `first` is the mutant: a transaction before each load, which makes it two steps.
    """
    kernel, boot = Netfilter(), boot_id()
    enforcement = Enforcement(sites[0], kernel, Database(None, boot), boot)
    for number, site in enumerate(itertools.cycle(sites)):
        enforcement.adopt(site)
        os.write(mark, BEGIN)
        if first:
            nft.apply(first, "the mutant")
        if number % RULES_EVERY and not first:
            enforcement.apply(now_s())
        else:
            enforcement.load(now_s(), "again")
        os.write(mark, END)
    raise AssertionError


def load_s(site: Site, kernel: Netfilter) -> float:
    """How long one load takes here and now."""
    began_s = now_s()
    Enforcement(site, kernel, Database(None, ""), boot_id()).load(began_s, "to measure")
    return now_s() - began_s


def kill_once(sites: Sequence[Site], life_s: float, first: str) -> bytes:
    """The marks of a child that was killed after `life_s`, reckoned from its first apply."""
    reader, mark = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            apply_for_ever(sites, mark, first)
        finally:
            os._exit(1)
    os.close(mark)
    marks = os.read(reader, 1)
    time.sleep(life_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit("an apply failed")
    # Its own helper processes may still hold the pipe: read what is there, and no more.
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):
        marks += os.read(reader, 1 << 16)
    os.close(reader)
    return marks


def main() -> None:
    """Kills as often as the command line says and prints the counts."""
    parser = argparse.ArgumentParser(prog="python -m lab.kills", description=__doc__)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", default="", metavar="TRANSACTION", help="the mutant's first step")
    options = parser.parse_args()
    sites, kernel = [read_site(path) for path in options.configs], Netfilter()
    dice = random.Random(options.seed)
    possible = [policy.desired(site.settings, site.uids) for site in sites]
    longest_s = LIFE_IN_LOADS * load_s(sites[0], kernel)
    found = {"kills": 0, "applies": 0, "within": 0, "torn": 0}
    for _ in range(options.kills):
        marks = kill_once(sites, dice.uniform(0, longest_s), options.first)
        held = kernel.sets()
        found["kills"] += 1
        found["applies"] += marks.count(END)
        found["within"] += marks.endswith(BEGIN)
        found["torn"] += all(any(held[name] != want[name] for name in CONFIGURED) for want in possible)
    kernel.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
