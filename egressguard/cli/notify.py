"""`notify`: what waits for delivery, and a test of every configured way.

The running daemon sends the test: it may be forbidden what this shell may do. Without one this command sends.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from egressguard import heartbeat
from egressguard.alarm import where_of
from egressguard.boot import boot_id, now_s
from egressguard.cli.options import config_option, json_option
from egressguard.cli.progress import waiting
from egressguard.config import read_site
from egressguard.core.alerts import Alert, clean, of_test
from egressguard.core.errors import EgressguardError
from egressguard.core.settings import Settings
from egressguard.database import Database
from egressguard.outbox import Outbox, Waiting

UNDELIVERED = 4
DELIVERED = {"daemon": "delivered by the daemon",
             "command": "delivered by this command: no running daemon was found, and what its unit forbids "
                        "was not tried"}


@click.command()
@click.option("--test", is_flag=True, help="Send a test to every configured channel, now.")
@config_option
@json_option
def notify(test: bool, config: Path, as_json: bool) -> None:
    """Show alerts that wait for their delivery, and why.

    With `--test` the running daemon tries every configured channel, as it delivers alerts; without a daemon
    this command does, which may be allowed more.
    """
    settings = read_site(config).settings
    if test:
        _test(config, settings, as_json=as_json)
        return
    database = Database(Path(settings.database), boot_id(), read_only=True)
    found = Outbox(database, boot_id()).waiting()
    database.close()
    click.echo(json.dumps([asdict(w) for w in found], indent=1) if as_json else
               "\n".join(map(_line, found)) or "nothing waits for its delivery")


def _line(one: Waiting) -> str:
    tried = f", tried {one.tries} times: {clean(one.error)}" if one.tries else ""
    return f"{one.wall[:19].replace('T', ' ')}  {one.channel}  {clean(one.alert.title)}{tried}"


def _test(config: Path, settings: Settings, *, as_json: bool) -> None:
    if not settings.notify.channels():
        raise EgressguardError("notify: no channel is configured: set mail_to, webhook or command")
    from egressguard.rehearsal import rehearse  # with HTTP, TLS and mail, which no other command needs

    alert = of_test(now_s(), where_of(settings.router))
    by_daemon, _ = heartbeat.read(Path(settings.runtime_directory))
    if by_daemon:
        with waiting("the daemon tries every channel …"):
            tried = rehearse(config, Path(settings.database), settings.notify, alert)
    else:
        tried = {channel: _try(channel, alert, settings) for channel in settings.notify.channels()}
    _show(tried, "daemon" if by_daemon else "command", as_json=as_json)


def _try(channel: str, alert: Alert, settings: Settings) -> str:
    """Why the channel did not deliver the test; empty when it did."""
    from egressguard.notify import NotDelivered, deliver

    try:
        deliver(channel, alert, 0, settings.router, settings.notify)
    except NotDelivered as error:
        return str(error)
    return ""


def _show(tried: dict[str, str], by: str, *, as_json: bool) -> None:
    failed = [error for error in tried.values() if error]
    if as_json:
        click.echo(json.dumps([{"channel": channel, "delivered": not error, "error": error, "by": by}
                               for channel, error in tried.items()], indent=1))
        sys.exit(UNDELIVERED if failed else 0)
    click.echo("".join(f"{channel}: {DELIVERED[by]}\n" for channel, error in tried.items() if not error),
               nl=False)
    if failed:
        raise EgressguardError("\n".join(f"{error} (tried by the {by})" for error in failed))
