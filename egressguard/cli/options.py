"""Options that every command has under the same name."""

from pathlib import Path

import click

from egressguard.config import DEFAULT_PATH

# Read before everything else on the line: HOST may be a name that stands in it.
config_option = click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH,
                             show_default=True, is_eager=True, help="The configuration file.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
