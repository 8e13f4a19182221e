"""From a bot's first blocked SYN to the changed limit at the relay: script/bench latency [--runs N].

Real packets, both real daemons; with SQLite and with the real server, undisturbed and with 30 % of the
packets lost (of the bot's connections and of those to the server, each way).
"""

import argparse
import json
import tempfile
from pathlib import Path

from lab.latency import measure, percentile, site

CASES = (("sqlite", 0, 1.0), ("valkey", 0, 1.0), ("sqlite", 30, 5.0), ("valkey", 30, 5.0))


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(prog="script/bench latency", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between hosts, on average")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    figures = {}
    for kind, loss, required_s in CASES:
        with tempfile.TemporaryDirectory() as folder, \
                site(Path(folder), kind, loss_percent=loss) as deployment:
            took_s = measure(deployment, arguments.runs, pause_s=arguments.pause)
        figures[f"{kind}, {loss} % lost"] = found = {
            "runs": len(took_s), "median_s": round(percentile(took_s, 0.5), 3),
            "p99_s": round(percentile(took_s, 0.99), 3), "worst_s": round(took_s[-1], 3),
            "required_p99_s": required_s}
        print(f"{kind}, {loss:2} % lost: median {found['median_s']:.2f} s, p99 {found['p99_s']:.2f} s "
              f"(required {required_s:.0f} s), worst {found['worst_s']:.2f} s, of {len(took_s)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
