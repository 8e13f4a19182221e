"""`egressguard exchange-setup` prints what a shared exchange needs; `egressguard exchange` looks after it."""

import json
import os
from pathlib import Path

import click

from egressguard.cli.options import config_option
from egressguard.config import read_site
from egressguard.core.errors import EgressguardError
from egressguard.exchange import Exchange, open_exchange, setup
from egressguard.exchange.setup import File


@click.command("exchange-setup")
@click.option("--address", "addresses", multiple=True, default=("127.0.0.1",), show_default=True,
              help="Where the server listens; several times.")
@click.option("--port", default=6379, show_default=True, help="Its port.")
@click.option("--folder", default="/etc/valkey", show_default=True, help="The server's folder.")
@click.option("--into", type=click.Path(path_type=Path), help="Write the files into this folder instead.")
@click.option("--new-key", is_flag=True, help="Only print a fresh site key, as a line for exchange.key.")
def exchange_setup(addresses: tuple[str, ...], port: int, folder: str, into: Path | None,
                   new_key: bool) -> None:
    """Print what a shared exchange needs.

    Server configuration, users and keys, with fresh secrets. Changes nothing on this machine. How to
    use it: docs/exchange.md.
    """
    if new_key:
        click.echo(setup.new_key())
        return
    found = setup.files(" ".join(addresses), port, folder)
    if into is not None:
        _write(into, found)
        return
    for file in found:
        click.echo(f"# ==== {file.name}  ({file.where})\n{file.text}")


def _write(folder: Path, found: list[File]) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in found:
            # Secrets: never readable by others, not even for a moment; and no other file is replaced.
            fd = os.open(folder / file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            with os.fdopen(fd, "w") as opened:
                opened.write(file.text)
            click.echo(f"{folder / file.name}  →  {file.where}")
    except OSError as error:
        raise EgressguardError(f"{error.filename}: {error.strerror}") from error


@click.group()
def exchange() -> None:
    """Look at the exchange, and remove what was left there.

    By routers and relays that are no more.
    """


@exchange.command("names")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def names(config: Path, as_json: bool) -> None:
    """List who has left a document there."""
    opened = _open(config)
    try:
        found = opened.names()
    finally:
        opened.close()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for kind, listed in found.items():
        for name in listed:
            click.echo(f"{'router' if kind == 'bulletin' else 'relay'} {name}")


@exchange.command("forget")
@click.argument("name")
@config_option
def forget(name: str, config: Path) -> None:
    """Remove what NAME has left: for a router or relay that is no more. One that lives writes it anew."""
    opened = _open(config)
    try:
        known = sorted({known for listed in opened.names().values() for known in listed})
        if name not in known:
            raise EgressguardError(f"{name!r} has left nothing in the exchange; known: "
                                   f"{', '.join(known) or 'none'}")
        opened.forget(name)
    finally:
        opened.close()
    click.echo(f"{name} is forgotten")


def _open(config: Path) -> Exchange:
    settings = read_site(config).settings
    return open_exchange(settings.exchange, settings.exchange_key)
