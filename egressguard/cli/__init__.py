"""The command line: nouns look (`status`, `history`), verbs change (`run`); errors are one message, no trace.

Exit code 4 means that the command could not do its work, so that it cannot be mistaken for an answer of
`status` (0 to 3).
"""

import sys
from pathlib import Path

import click

from egressguard.cli import status as status_view
from egressguard.cli.history import history_json, history_text
from egressguard.cli.mta_config import mta_config
from egressguard.config import DEFAULT_PATH, read_settings, rules_path
from egressguard.core.errors import EgressguardError
from egressguard.core.health import findings, health
from egressguard.core.hosts import canonical_address, host_of

FAILED = 4

config_option = click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH,
                             show_default=True, help="The configuration file.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="egressguard")
def cli() -> None:
    """Blocks direct outgoing SMTP, counts who tries, and tells the relay."""


@cli.command()
@config_option
def run(config: Path) -> None:
    """Run the router's daemon in the foreground.

    Loads the rules, then judges and publishes in rounds. SIGTERM ends it and leaves the rules in place;
    SIGHUP reads the configuration again.
    """
    from egressguard import daemon
    from egressguard.cli.logs import log_to_stderr

    log_to_stderr()
    daemon.run(config)


@cli.command()
@config_option
def check(config: Path) -> None:
    """Check the configuration; name every mistake at once and change nothing."""
    settings = read_settings(config)
    rules_path(settings)
    click.echo(f"{config}: good: mode {settings.mode}, {len(settings.sender)} senders, "
               f"{len(settings.host)} hosts")


@cli.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show what is enforced now, read from the kernel.

    Exit code: 0 healthy, 1 a host is compromised, 2 degraded, 3 not enforcing, 4 could not be told.
    """
    from egressguard.observation import observe

    seen = observe(read_settings(config))
    found = findings(seen)
    if as_json:
        click.echo(status_view.status_json(seen, found))
    else:
        status_view.show(seen, found, status_view.terminal())
    sys.exit(health(found))


@cli.command()
@click.argument("host", required=False)
@click.option("--limit", default=50, show_default=True, help="How many of the newest lines.")
@config_option
@json_option
def history(host: str | None, limit: int, config: Path, as_json: bool) -> None:
    """Show how verdicts changed, and what else happened; only HOST's lines when one is given."""
    from egressguard.boot import boot_id
    from egressguard.database import Database

    settings = read_settings(config)
    key = None
    if host is not None:
        try:
            key = host_of(canonical_address(host.removesuffix("/64")))
        except ValueError:
            raise EgressguardError(f"HOST {host!r}: is no address; give one such as 192.0.2.7") from None
    database = Database(Path(settings.database), boot_id(), read_only=True)
    entries = database.history(key, limit)
    database.close()
    click.echo(history_json(entries) if as_json else history_text(entries))


cli.add_command(mta_config)


def main() -> None:
    """The entry point `egressguard`."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = FAILED
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except EgressguardError as error:
        for line in str(error).splitlines():
            click.echo(f"egressguard: {line}", err=True)
        code = FAILED
    sys.exit(code)
