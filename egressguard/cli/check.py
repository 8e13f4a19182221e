"""`egressguard check`: whether the configuration can be used."""

import json
from pathlib import Path

import click

from egressguard.config import read_site
from egressguard.core.errors import ConfigError
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
    if as_json:
        click.echo(json.dumps({"file": str(config), "good": True, "mistakes": [], "mode": settings.mode,
                               "senders": len(settings.sender), "hosts": len(settings.host)}, indent=1))
    else:
        click.echo(f"{config}: good: mode {settings.mode}, {len(settings.sender)} senders, "
                   f"{len(settings.host)} hosts")
        if settings.table_owner and (why := owner.why_not()):
            click.echo(f"table_owner is not possible here, what others change is put right instead: {why}")
    return GOOD
