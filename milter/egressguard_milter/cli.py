"""The command `egressguard-milter`."""

import logging
import sys
from pathlib import Path

import click

from egressguard.core.errors import ConfigError, EgressguardError
from egressguard_milter.cli_check import check
from egressguard_milter.policy import DEFAULT_PATH, read_policy

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
    metavar="FILE", help="The relay's policy.")


@click.group()
def main() -> None:
    """Limits what each client may send through this relay, and more so when a router suspects it."""


@main.command()
@config_option
def run(path: Path) -> None:
    """Serve the MTA until SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO,
                        format="egressguard-milter: level=%(levelname)s %(message)s")
    try:
        policy = read_policy(path)
        # Imported here: check-config needs no libmilter.
        from egressguard_milter import service
        service.run(policy)
    except ConfigError as error:
        _fail(error, 2)
    except EgressguardError as error:
        _fail(error, 1)


@main.command("check-config")
@config_option
def check_config(path: Path) -> None:
    """Say whether FILE can be used; all mistakes at once."""
    try:
        read_policy(path)
    except ConfigError as error:
        _fail(error, 1)
    click.echo(f"{path}: correct")


main.add_command(check)


def _fail(error: EgressguardError, code: int) -> None:
    for text in str(error).splitlines():
        click.echo(f"egressguard-milter: {text}", err=True)
    sys.exit(code)
