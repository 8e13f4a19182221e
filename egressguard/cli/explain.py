"""`explain`: a verdict as sentences, and the contributions that made it."""

import json
from pathlib import Path

import click

from egressguard.boot import boot_id, now_s
from egressguard.cli.host_argument import HOST
from egressguard.config import DEFAULT_PATH, read_site
from egressguard.core.errors import KernelError
from egressguard.core.explanation import as_dict, from_json, sentences
from egressguard.core.explanation import contributions as contribution_lines
from egressguard.core.forgery import Forgery
from egressguard.core.hosts import Host
from egressguard.core.settings import Settings
from egressguard.database import Database
from egressguard.forgeries import read_forgeries


@click.command()
@click.argument("host", type=HOST)
@click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
              is_eager=True, help="The configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def explain(host: str, config: Path, as_json: bool) -> None:
    """Say why HOST is judged as it is.

    The verdict in sentences, and what made it, with times and samples.

    HOST is an address or a name of the inventory.
    """
    settings = read_site(config).settings
    key = settings.machine_of().get(Host(host), Host(host))
    database = Database(Path(settings.database), boot_id(), read_only=True)
    try:
        now, kept = now_s(), database.explanation(key)
        verdict = database.verdicts(now).get(key)
    finally:
        database.close()
    found = from_json(kept[0]) if kept is not None else None
    forgeries = _forged(settings, key)
    if as_json:
        named = {"host": key, "name": settings.names().get(key)}
        click.echo(json.dumps(named | as_dict(verdict, found, now, forgeries), indent=1))
        return
    click.echo("\n".join(sentences(_name(key, settings), verdict, found, settings.detection, now, forgeries)))
    if found is not None and kept is not None and found.contributions:
        click.echo(f"\nWhat made it, as kept {now - kept[1]:.0f} s ago:")
        click.echo("\n".join(contribution_lines(found.contributions, now)))


def _forged(settings: Settings, host: Host) -> list[Forgery] | None:
    """What was forged of the host's attempts; None when the kernel may not be asked, or does not answer."""
    machine_of = settings.machine_of()
    try:
        return [f for f in read_forgeries(settings)[0] if machine_of.get(f.host, f.host) == host]
    except KernelError:
        return None


def _name(host: str, settings: Settings) -> str:
    name = {str(key): name for key, name in settings.names().items()}.get(host)
    return f"{name} ({host})" if name else host
