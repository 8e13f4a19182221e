"""What the doctor found, as an operator reads it and as a machine does."""

import json
from dataclasses import asdict

import click

from egressguard.cli.folding import folded
from egressguard.core.diagnosis import verdict
from egressguard.core.finding import Finding, Severity
from egressguard.core.surroundings import Surroundings
from egressguard.core.versions import promises

WORDS = {Severity.NOTE: "note", Severity.WEAKENS: "WEAKENS", Severity.OFF_PATH: "NOT ON THE PATH"}
CONCLUSIONS = {Severity.NOTE: "the rules stand on the path", Severity.WEAKENS: "something weakens the rules",
               Severity.OFF_PATH: "the rules do not stand on the path of every packet"}


def doctor_json(seen: Surroundings, found: list[Finding]) -> str:
    """Findings, the canary's fate, versions and their promises, as one JSON object."""
    return json.dumps({
        "exit_code": verdict(found), "conclusion": CONCLUSIONS[verdict(found)],
        "findings": [{**asdict(f), "severity": WORDS[f.severity]} for f in found],
        "canary": [asdict(flight) for flight in seen.canary.flights] if seen.canary else None,
        "kernel": _dotted(seen.kernel), "nft": _dotted(seen.nft),
        "promises": [asdict(promise) for promise in promises(seen.kernel, seen.nft)],
    }, indent=1)


def doctor_text(seen: Surroundings, found: list[Finding]) -> str:
    """The same in words."""
    lines = [CONCLUSIONS[verdict(found)]]
    for finding in found:
        lines += ["", f"{WORDS[finding.severity]}: {finding.name}: {finding.found}",
                  f"  why    {finding.why}", f"  right  {finding.right}"]
    lines += [""] + [f"canary   {f.text}" for f in (seen.canary.flights if seen.canary else ())]
    lines += [f"versions Linux {_dotted(seen.kernel)}, libnftables {_dotted(seen.nft)}"]
    lines += [f"  {'yes' if p.holds else 'no '}  {p.name}: {p.text}" for p in promises(seen.kernel, seen.nft)]
    return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    """Interface names and comments may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def examine(seen: Surroundings, found: list[Finding], *, as_json: bool) -> None:
    """Prints what was found."""
    click.echo(doctor_json(seen, found) if as_json else folded(doctor_text(seen, found)))
