"""The command `egressguard-milter`."""

import json
import logging
import sys
from copy import copy
from pathlib import Path
from typing import Any

import click

from egressguard.command_line import add_examples, completion, fail, finish
from egressguard.core.errors import ConfigError, EgressguardError
from egressguard.mta_config.command import mta_config
from egressguard_milter import shown
from egressguard_milter.cli_check import check
from egressguard_milter.cli_init import init
from egressguard_milter.control import ControlError, ask
from egressguard_milter.examples import EXAMPLES
from egressguard_milter.importing import SOURCES, import_file
from egressguard_milter.mistakes import read_control_path, read_policy
from egressguard_milter.policy import DEFAULT_PATH
from egressguard_milter.requests import MOST_CLIENTS, encode_request

USAGE = 2

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
    metavar="FILE", help="The relay's policy.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="egressguard")
def cli() -> None:
    """Limits what each client may send through this relay, and more so when a router suspects it."""


@cli.command()
@config_option
def run(path: Path) -> None:
    """Serve the MTA until SIGTERM."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO,
                        format="egressguard-milter: level=%(levelname)s %(message)s")
    try:
        read_policy(path)
        # Imported here: the other commands need none of it.
        from egressguard_milter import service
        service.run(path)
    except ConfigError as error:
        _fail(error, 2)
    except EgressguardError as error:
        _fail(error, 1)


@cli.command("check-config")
@config_option
@json_option
def check_config(path: Path, as_json: bool) -> None:
    """Say whether the policy can be used; all mistakes at once."""
    mistakes: list[dict[str, str]] = []
    try:
        read_policy(path)
    except ConfigError as error:
        if not as_json:
            _fail(error, 1)
        mistakes = [mistake.shown() for mistake in error.mistakes]
    answer = {"file": str(path), "good": not mistakes, "mistakes": mistakes}
    _show(answer, as_json, lambda _: f"{path}: correct")
    sys.exit(1 if mistakes else 0)


@cli.command()
@config_option
@json_option
def status(path: Path, as_json: bool) -> None:
    """Say how the running milter is. Exit code 2: degraded, or it does not answer."""
    answer = _ask(path, "status", code=2)
    _show(answer, as_json, shown.status)
    if not answer["healthy"]:
        sys.exit(2)


@cli.command()
@config_option
@json_option
@click.option("--count", type=click.IntRange(1, MOST_CLIENTS), default=20, show_default=True,
              help="How many of them.")
def clients(path: Path, as_json: bool, count: int) -> None:
    """List the most recently active clients."""
    _show(_ask(path, "clients", count=count), as_json, shown.clients)


@cli.command()
@click.argument("client")
@config_option
@json_option
@click.option("--name", default="", help="The client's host name, where rules match names.")
def explain(client: str, path: Path, as_json: bool, name: str) -> None:
    """Say what CLIENT may do, why, and how much of it is used."""
    _show(_ask(path, "explain", client=client, name=name), as_json, shown.explain)


@cli.command()
@click.argument("client")
@config_option
@json_option
def forgive(client: str, path: Path, as_json: bool) -> None:
    """Drop what counts against CLIENT.

    CLIENT is an address, or a key as the log names it.
    """
    _show(_ask(path, "forgive", client=client), as_json, shown.forgive)


@cli.command()
@config_option
@json_option
def reload(path: Path, as_json: bool) -> None:
    """Put the policy file in force; a wrong one changes nothing."""
    _show(_ask(path, "reload"), as_json, shown.reload)


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "source", type=click.Choice(sorted(SOURCES)), required=True,
              help="ze-filter: ze-policy.txt or ze-filter.cf; access: sendmail's.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write it [default: stdout].")
def import_(file: Path, source: str, output: Path | None) -> None:
    """Turn FILE of another program into a policy.

    Every line that could not be carried over is named.
    """
    try:
        text, left = import_file(file, source)
    except EgressguardError as error:
        _fail(error, 1)
    for remark in left:
        click.echo(f"{file}:{remark.line}: {remark.text}", err=True)
    try:
        if output is None:
            click.echo(text, nl=False)
        else:
            output.write_text(text, "utf-8")
    except OSError as error:
        _fail(EgressguardError(f"cannot write {output}: {error.strerror}"), 1)


cli.add_command(check)
cli.add_command(init)
cli.add_command(copy(mta_config))  # its examples are this program's
cli.add_command(completion("egressguard-milter"))
add_examples(cli, EXAMPLES)


def main() -> None:
    """The entry point `egressguard-milter`."""
    name = "egressguard-milter"
    sys.exit(finish(name, lambda: cli.main(prog_name=name, standalone_mode=False), USAGE))


def _ask(path: Path, command: str, code: int = 1, **fields: Any) -> dict[str, Any]:
    try:
        return ask(read_control_path(path), encode_request(command, **fields))
    except (ConfigError, ControlError) as error:
        _fail(error, code)
        raise AssertionError from error  # _fail does not return


def _show(answer: dict[str, Any], as_json: bool, as_text: Any) -> None:
    click.echo(json.dumps(answer, indent=2) if as_json else as_text(answer))


def _fail(error: EgressguardError, code: int) -> None:
    fail("egressguard-milter", str(error))
    sys.exit(code)
