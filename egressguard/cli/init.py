"""`egressguard init`: looks at the machine, asks or takes flags, writes a configuration in mode observe."""

import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import click

from egressguard.cli.progress import waiting
from egressguard.config import DEFAULT_PATH, read_site
from egressguard.core import survey
from egressguard.core.errors import EgressguardError
from egressguard.core.survey import Candidate, Place
from egressguard.first_file import write_first

UNIT = "egressguard.service"
GROUP = "egressguard"


@click.command("init")
@click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
              help="The file to write.")
@click.option("--inside", multiple=True, metavar="INTERFACE", help="Hosts live behind it; several times.")
@click.option("--outside", multiple=True, metavar="INTERFACE", help="It leads outside; several times.")
@click.option("--sender", multiple=True, metavar="NAME=ADDRESS[,ADDRESS]",
              help="A machine that may speak SMTP to the outside; several times.")
@click.option("--router", help="This router's name in the exchange.  [default: the host's]")
@click.option("--probe", is_flag=True, help="Ask every neighbour whether it answers on port 25.")
@click.option("--yes", is_flag=True, help="Ask nothing: take what was found.")
@click.option("--force", is_flag=True, help="Write over a configuration that is there.")
@click.option("--start/--no-start", default=True, show_default=True,
              help="Start the service, if it is installed.")
def init(config: Path, inside: tuple[str, ...], outside: tuple[str, ...], sender: tuple[str, ...],
         router: str | None, probe: bool, yes: bool, force: bool, start: bool) -> None:
    """Write a first configuration, in mode observe.

    It counts what would be blocked and blocks nothing.

    Finds interfaces, networks and likely mailservers, says why it takes each for what, and asks.
    """
    from egressguard.kernel.survey import read_survey

    if config.exists() and not force:
        raise EgressguardError(f"{config}: exists; --force writes over it")
    with waiting("looking at this machine …"):
        seen = read_survey(probe=probe)
    chosen = _chosen(survey.places(seen, frozenset(inside), frozenset(outside)), yes)
    found = survey.candidates(seen, chosen)
    senders, doubtful = _senders(found, yes)
    senders += [survey.named(text) for text in sender]
    text = survey.configuration(router or socket.gethostname(), chosen, senders, doubtful)
    write_first(config, text, read_site, "what was found and named", GROUP)
    click.echo(f"wrote {config}: mode observe, nothing is blocked")
    if start:
        _start(config)
    click.echo("next: egressguard status; egressguard hosts --would-block")


def _chosen(places: list[Place], yes: bool) -> list[Place]:
    chosen = []
    for place in places:
        click.echo(f"{place.interface}: {'inside' if place.inside else 'outside'}, because {place.why}"
                   + (f" ({', '.join(map(str, place.networks))})" if place.networks else ""))
        if not yes and place.networks:
            answer = click.confirm(f"  do hosts live behind {place.interface}?", default=place.inside)
            if answer != place.inside:
                place = replace(place, inside=answer, why="said so")
        chosen.append(place)
    return chosen


def _senders(found: list[Candidate], yes: bool) -> tuple[list[Candidate], list[Candidate]]:
    """Who may send, and who stands in the file as a comment."""
    senders: list[Candidate] = []
    doubtful: list[Candidate] = []
    for candidate in found:
        where = ", ".join(map(str, candidate.addresses))
        click.echo(f"{candidate.name} ({where}): {candidate.why}")
        may = candidate.likely if yes else click.confirm(f"  may {where} send mail to the outside?",
                                                         default=candidate.likely)
        (senders if may else doubtful).append(candidate)
    return senders, doubtful


def _start(config: Path) -> None:
    """Puts the configuration into the kernel and starts the service. The order matters: the rules unit would
    load the rules alone, and block, where nothing stands yet.
    """
    from egressguard.cli import trial

    if not _installed():
        click.echo(f"no {UNIT} is installed: start it with egressguard run --config {config}")
        return
    click.echo(trial.apply(config))
    done = _systemctl("restart")
    if done.returncode != 0:
        raise EgressguardError(f"systemctl restart {UNIT}: {done.stderr.strip()}")
    click.echo(f"started {UNIT}")


def _installed() -> bool:
    if not Path("/run/systemd/system").is_dir():
        return False
    return _systemctl("cat").returncode == 0


def _systemctl(verb: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/systemctl", verb, UNIT], text=True, capture_output=True, check=False)
