"""`notify`: what waits for delivery, and a test of every configured way."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from egressguard.alarm import where_of
from egressguard.boot import boot_id, now_s
from egressguard.cli.options import config_option, json_option
from egressguard.config import read_site
from egressguard.core.alerts import clean, of_test
from egressguard.core.errors import EgressguardError
from egressguard.core.settings import Settings
from egressguard.database import Database
from egressguard.notify import NotDelivered, deliver
from egressguard.outbox import Outbox, Waiting

UNDELIVERED = 4


@click.command()
@click.option("--test", is_flag=True, help="Send a test to every configured channel, now.")
@config_option
@json_option
def notify(test: bool, config: Path, as_json: bool) -> None:
    """Show alerts that wait for their delivery, and why.

    With `--test`: tries every configured channel.
    """
    settings = read_site(config).settings
    if test:
        tried = _try(settings)
        _show(tried, as_json=as_json)
        return
    database = Database(Path(settings.database), boot_id(), read_only=True)
    waiting = Outbox(database, boot_id()).waiting()
    database.close()
    click.echo(json.dumps([asdict(w) for w in waiting], indent=1) if as_json else
               "\n".join(map(_line, waiting)) or "nothing waits for its delivery")


def _line(waiting: Waiting) -> str:
    tried = f", tried {waiting.tries} times: {clean(waiting.error)}" if waiting.tries else ""
    return f"{waiting.wall[:19].replace('T', ' ')}  {waiting.channel}  {clean(waiting.alert.title)}{tried}"


def _try(settings: Settings) -> dict[str, str]:
    """Why each channel did not deliver the test; empty when it did."""
    if not settings.notify.channels():
        raise EgressguardError("notify: no channel is configured: set mail_to, webhook or command")
    alert, tried = of_test(now_s(), where_of(settings.router)), dict[str, str]()
    for channel in settings.notify.channels():
        try:
            deliver(channel, alert, 0, settings.router, settings.notify)
        except NotDelivered as error:
            tried[channel] = str(error)
        else:
            tried[channel] = ""
    return tried


def _show(tried: dict[str, str], *, as_json: bool) -> None:
    failed = [error for error in tried.values() if error]
    if as_json:
        click.echo(json.dumps([{"channel": channel, "delivered": not error, "error": error}
                               for channel, error in tried.items()], indent=1))
        sys.exit(UNDELIVERED if failed else 0)
    click.echo("".join(f"{channel}: delivered\n" for channel, error in tried.items() if not error), nl=False)
    if failed:
        raise EgressguardError("\n".join(failed))
