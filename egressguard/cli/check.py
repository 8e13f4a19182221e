"""`egressguard check`: whether the configuration can be used."""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from egressguard.config import read_site
from egressguard.core.errors import ConfigError
from egressguard.core.settings import Settings
from egressguard.kernel import owner

GOOD, MISTAKEN = 0, 4


def examine(config: Path, *, as_json: bool) -> int:
    """Prints what was found; the exit code."""
    try:
        settings = read_site(config).settings
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"file": str(config), "good": False,
                               "mistakes": [mistake.shown() for mistake in error.mistakes]}, indent=1))
        return MISTAKEN
    remarks = list(_remarks(settings))
    if as_json:
        click.echo(json.dumps({"file": str(config), "good": True, "mistakes": [], "remarks": remarks,
                               "mode": settings.mode, "senders": len(settings.sender),
                               "hosts": len(settings.host)}, indent=1))
    else:
        click.echo("\n".join([f"{config}: good: mode {settings.mode}, {len(settings.sender)} senders, "
                              f"{len(settings.host)} hosts", *remarks]))
    return GOOD


def _remarks(settings: Settings) -> Iterator[str]:
    """What can be used, and does less than it says."""
    if settings.table_owner and (why := owner.why_not()):
        yield f"table_owner is not possible here, what others change is put right instead: {why}"
