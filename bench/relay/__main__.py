"""`script/bench relay`: a table, and with --json a file, of ratios that belong to one run."""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.relay import direct, rivals, through_postfix
from bench.relay.programs import floor, noop, on_libmilter, ours, tcp
from lab.namespaces import Namespace

NOOP_PORT, OURS_PORT, FLOOR_PORT, PYMILTER_PORT = 8891, 8892, 8893, 8894
TARGETS = {1: 0.90, 10: 0.85, 100: 0.85, 1000: 0.60}
ZE_FILTER_BYTES = 12_700  # per client, measured against its own binary


def main() -> None:
    """Measures, prints, writes."""
    options = arguments()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="eg-bench-") as name, Namespace("bench") as namespace:
        folder = Path(name)
        folder.chmod(0o755)
        result = {**alone(namespace, folder, options), **through(namespace, folder, options)}
    result["seconds"] = round(time.monotonic() - began)
    print(f"\n{result['seconds']} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The sizes; the defaults take less than five minutes."""
    parser = argparse.ArgumentParser(prog="script/bench relay", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one run of a milter alone")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs; the median counts")
    parser.add_argument("--messages", type=int, default=1500, help="of one run through Postfix")
    parser.add_argument("--clients", type=int, default=20_000, help="for the memory per client")
    parser.add_argument("--hears", choices=["mail", "rcpt"], default="rcpt", help="what the C no-op asks for")
    parser.add_argument("--no-rivals", action="store_true", help="without other limiters")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def alone(namespace: Namespace, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The milters alone.

    All negotiate the same steps: MAIL, RCPT with refused recipients, and the end of the message. None asks
    not to be waited for (SMFIP_NR_*), since each step may be refused.
    """
    programs = [noop(namespace, folder, options.hears, tcp(NOOP_PORT)), floor(namespace, tcp(FLOOR_PORT)),
                on_libmilter(namespace, folder, tcp(PYMILTER_PORT)), ours(namespace, folder, tcp(OURS_PORT))]
    own = programs[-1]
    load = direct.Load(namespace, folder)
    print("milter alone     connections   transactions/s   p50 µs     p99 µs   cpu µs   memory MB   "
          "ratio   target")
    rows: list[direct.Row] = []
    for connections in options.connections:
        for row in direct.measure(load, programs, connections, seconds=options.seconds,
                                  rounds=options.rounds):
            target = f"{TARGETS.get(connections, '')}" if row.milter == own.name else ""
            rows.append(row)
            print(f"{row.milter:<16} {row.connections:>11} {row.per_second:>16,.0f} {row.p50_us:>8,.0f} "
                  f"{row.p99_us:>10,.0f} {row.cpu_us:>8.1f} {row.resident_mb:>11.1f} {row.ratio:>7.2f} "
                  f"{target:>8}", flush=True)
    each = direct.bytes_per_client(load, own, options.clients)
    print(f"memory per client: {each:,.0f} bytes, {each / ZE_FILTER_BYTES:.3f} of ze-filter's "
          f"{ZE_FILTER_BYTES:,} (target {1 / 20})")
    for program in programs:
        program.stop()
    return {"alone": [asdict(row) for row in rows], "bytes_per_client": round(each)}


def through(namespace: Namespace, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Through Postfix, with every limiter that could be had."""
    paths = [folder / "noop.sock", folder / "egressguard.sock"]
    base = noop(namespace, folder, options.hears, f"unix:{paths[0]}")
    other = ours(namespace, folder, f"unix:{paths[1]}")
    settings = {program.name: through_postfix.milter(path)
                for program, path in zip((base, other), paths, strict=True)}
    found, absent = ({}, {}) if options.no_rivals else rivals.start(namespace, folder)
    rows = through_postfix.measure(namespace, settings | found, messages=options.messages,
                                   rounds=options.rounds)
    if any(name.startswith("rspamd") for name in found):
        rivals.check_rspamd(namespace)
    own = next(row for row in rows if row.limiter == other.name)
    print("\nthrough Postfix        messages/s   × no milter   egressguard is × this")
    for row in rows:
        print(f"{row.limiter:<20} {row.per_second:>12,.0f} {row.ratio:>13.2f} {own.ratio / row.ratio:>23.2f}")
    for name, why in absent.items():
        print(f"{name:<20} not measured: {why}")
    print("targets: 0.90 of the C no-op, 1.2 of postfwd, 2 of rspamd with its ratelimit")
    return {"postfix": [asdict(row) for row in rows], "not_measured": absent}


main()
