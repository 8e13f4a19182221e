"""`tune`: limits for each web server that delay its mail from time to time, learnt from what relays report.

The policy stays a person's file: what is written stands between two marks at its end, everything else is kept
byte for byte, and a host that has a rule of its own is left alone.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from egressguard.boot import boot_id
from egressguard.cli.policy_file import MARKS, replaced, write
from egressguard.config import DEFAULT_PATH, read_site
from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import Host
from egressguard.core.settings import Settings
from egressguard.core.tuning import PEAKS, TARGET, Proposal, missing, proposals
from egressguard.core.volumes import WINDOW_S, Volume
from egressguard.database import Database
from egressguard.relay_records import volumes_of

Found = Mapping[Host, list[Proposal]]
History = Mapping[Host, Mapping[int, Volume]]


@click.command()
@click.option("--target", default=TARGET, show_default=True, type=click.FloatRange(0, 0.5),
              help="The share of messages that may be delayed in normal conditions.")
@click.option("--write", "policy", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the proposals into this policy of a relay.")
@click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
              is_eager=True, help="The configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def tune(target: float, policy: Path | None, config: Path, as_json: bool) -> None:
    """Propose limits for each web server.

    Such that in normal conditions its mail is delayed from time to time.

    Learns from what relays have reported in the last thirty days, and says what each proposal would have
    delayed. Changes nothing without --write; the relay reads its policy again by itself or at `reload`.
    """
    settings = read_site(config).settings
    database = Database(Path(settings.database), boot_id(), read_only=True)
    try:
        history = volumes_of(database)
    finally:
        database.close()
    senders = {key for s in settings.sender for key in map(Host, map(str, s.addresses))}
    found = {host: proposals(windows, target) for host, windows in sorted(history.items())
             if host not in senders}
    click.echo(_json(found, history, settings) if as_json else _text(found, history, settings))
    if policy is not None:
        click.echo(_write(policy, found, settings), err=as_json)


def _text(found: Found, history: History, settings: Settings) -> str:
    names = settings.names()
    lines = []
    for host, ours in found.items():
        lines.append(f"{host} {names.get(host, '')}".rstrip())
        for p in ours:
            least = "; a limit was at work, so more may be wanted" if p.least else ""
            of = f"{p.total} ({p.share:.2%}) in {p.windows} windows" if p.kind not in PEAKS else \
                f"{p.total} windows ({p.share:.2%})"
            done = "have been exceeded in" if p.kind in PEAKS else "have delayed"
            lines.append(f"  {p.kind} = {p.limit}: would {done} {p.delayed} of {of}, the largest "
                         f"{p.largest}{least}")
        lines += [f"  {kind}: no proposal, {why}" for kind, why in missing(history[host], ours).items()]
    return "\n".join(lines) or "No relay has reported anything yet: there is nothing to learn from."


def _json(found: Found, history: History, settings: Settings) -> str:
    names = settings.names()
    return json.dumps({host: {
        "name": names.get(host), "window_s": WINDOW_S,
        "limits": {p.kind: {"limit": p.limit, "delayed": p.delayed, "total": p.total,
                            "share": round(p.share, 5), "windows": p.windows, "largest": p.largest,
                            "limited_already": p.least} for p in ours},
        "no_proposal": missing(history[host], ours)} for host, ours in found.items()}, indent=1)


def _write(path: Path, found: Found, settings: Settings) -> str:
    try:
        text = path.read_text("utf-8")
        ruled = _ruled(tomllib.loads(replaced(text, "")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EgressguardError(f"{path}: cannot be used as a policy: {error}") from error
    own = {host: ours for host, ours in found.items() if ours and host not in ruled}
    write(path, replaced(text, "\n".join(_rule(host, ours, settings) for host, ours in own.items())))
    left = [host for host, ours in found.items() if ours and host in ruled]
    return f"{path}: {len(own)} rules written between the marks {MARKS[0]!r} and {MARKS[1]!r}" + (
        f"; left alone, since they have rules of their own: {', '.join(left)}" if left else "")


def _ruled(policy: dict[str, Any]) -> set[str]:
    """The hosts that a person has given a rule."""
    clients = policy.get("client", [])
    matches = [str(m) for c in clients if isinstance(c, dict) for m in c.get("match", [])]
    return set(matches)


def _rule(host: Host, ours: list[Proposal], settings: Settings) -> str:
    keys = [key for key, first in settings.machine_of().items() if first == host] or [host]
    name = settings.names().get(host, "")
    comment = f"# {name}\n" if name.isprintable() and name else ""
    limits = "\n".join(f"{p.kind} = {p.limit}" for p in ours)
    match = ", ".join(json.dumps(key) for key in keys)
    return f"{comment}[[client]]\nmatch = [{match}]\nwindow_s = {float(WINDOW_S)}\n{limits}\n"
