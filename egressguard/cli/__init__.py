"""The command line: nouns look (`status`, `history`), verbs change (`run`); errors are one message, no trace.

Exit code 4 means that the command could not do its work, so that it cannot be mistaken for an answer of
`status` (0 to 3).
"""

import io
import json
import sys
from pathlib import Path

import click

from egressguard.cli import orders, trial
from egressguard.cli import status as status_view
from egressguard.cli.examples import EXAMPLES
from egressguard.cli.exchange import exchange, exchange_setup
from egressguard.cli.explain import explain
from egressguard.cli.folding import folded
from egressguard.cli.history import history_json, history_text
from egressguard.cli.host_argument import HOST
from egressguard.cli.hosts import hosts_json, show_hosts
from egressguard.cli.init import init
from egressguard.cli.notify import notify
from egressguard.cli.options import config_option, json_option
from egressguard.cli.progress import waiting
from egressguard.cli.replay import replay_
from egressguard.cli.status_json import status_json
from egressguard.cli.tune import tune
from egressguard.command_line import add_examples, completion, finish
from egressguard.config import read_site
from egressguard.core.health import findings, health
from egressguard.core.hosts import Host
from egressguard.core.standings import standings
from egressguard.core.standings import would_block as blocked_hosts
from egressguard.mta_config.command import mta_config

FAILED = 4


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="egressguard")
def cli() -> None:
    """Blocks direct outgoing SMTP, counts who tries, and tells the relay.

    HOST is an address, or a name of the inventory. Exit code 4: the command could not do its work.
    """


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
@json_option
def check(config: Path, as_json: bool) -> None:
    """Check the configuration, all mistakes at once.

    Changes nothing. Exit code: 0 good, 4 it has mistakes.
    """
    from egressguard.cli.check import examine

    sys.exit(examine(config, as_json=as_json))


@cli.command()
@click.option("--watch", is_flag=True, help="Draw it anew each second, until Ctrl-C.")
@config_option
@json_option
def status(watch: bool, config: Path, as_json: bool) -> None:
    """Show what is enforced now, read from the kernel.

    Exit code: 0 healthy, 1 a host is compromised, 2 degraded, 3 not enforcing, 4 could not be told.
    """
    from egressguard.observation import observe

    if watch:
        if as_json:
            raise click.UsageError("--watch is for eyes: leave out --json, or --watch.")
        status_view.watch(config)
        return
    seen = observe(read_site(config), config)
    found = findings(seen)
    if as_json:
        click.echo(status_json(seen, found))
    else:
        status_view.show(seen, found, status_view.terminal())
    sys.exit(health(found))


@cli.command()
@click.option("--would-block", is_flag=True, help="Only hosts whose attempts are, or would be, blocked.")
@config_option
@json_option
def hosts(would_block: bool, config: Path, as_json: bool) -> None:
    """List every host, worst first.

    Those of the inventory, and every stranger that was seen.

    In mode observe, `--would-block` is the list to work through before you enforce. It leaves out whoever has
    an exception now, and what is only counted (`also_count`).
    """
    from egressguard.observation import observe

    with waiting("looking at every host …"):
        seen = observe(read_site(config), config)
        listed = blocked_hosts(seen) if would_block else standings(seen, everyone=True)
    if as_json:
        click.echo(hosts_json(seen, listed))
    else:
        show_hosts(seen, listed, status_view.terminal())


@cli.command()
@click.argument("host", type=HOST, required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True,
              help="How many of the newest lines.")
@config_option
@json_option
def history(host: str | None, limit: int, config: Path, as_json: bool) -> None:
    """Show how verdicts changed, and what else happened.

    Only HOST's lines when one is given.
    """
    from egressguard.boot import boot_id
    from egressguard.database import Database

    settings = read_site(config).settings
    database = Database(Path(settings.database), boot_id(), read_only=True)
    entries = database.history(Host(host) if host else None, limit)
    database.close()
    click.echo(history_json(entries) if as_json else folded(history_text(entries)))


@cli.command()
@config_option
@json_option
def doctor(config: Path, as_json: bool) -> None:
    """Prove that the rules stand on the path.

    Looks for what leads around them, and sends the canary.

    Exit code: 0 they do, 2 something weakens them, 3 they do not, 4 could not be told.
    """
    from egressguard.cli.doctor import examine
    from egressguard.core.diagnosis import diagnose, verdict
    from egressguard.kernel.surroundings import read_surroundings

    with waiting("looking for ways around the rules, and sending the canary …"):
        seen = read_surroundings(read_site(config).settings)
    found = diagnose(seen)
    examine(seen, found, as_json=as_json)
    sys.exit(verdict(found))


reason_option = click.option("--reason", required=True, help="Why; it stands in the history.")
for_option = click.option("--for", "for_", required=True, metavar="TIME", help="How long: 30s, 15m, 2h, 7d.")


@cli.command()
@config_option
@json_option
def plan(config: Path, as_json: bool) -> None:
    """Print exactly what `apply` would do.

    As an nft transaction; nothing when nothing differs.
    """
    text = orders.plan_text(config)
    if as_json:
        text = json.dumps({"differs": bool(text), "transaction": text.splitlines()}, indent=1) + "\n"
    click.echo(text, nl=False)


@cli.command()
@click.option("--confirm", metavar="TIME", help="On trial: the former configuration returns unless this "
              "one is confirmed within TIME (60s, 5m).")
@config_option
def apply(confirm: str | None, config: Path) -> None:
    """Put the configuration into the kernel.

    In one transaction, with or without the daemon; a running one goes on with it.
    """
    if confirm is not None:
        trial.try_out(config, confirm)
        return
    with waiting("putting the configuration into the kernel …"):
        done = trial.apply(config)
    click.echo(done)


@cli.command()
@click.option("--no", "refused", is_flag=True, help="End the trial now: the former configuration returns.")
@config_option
def confirm(refused: bool, config: Path) -> None:
    """Keep the configuration that is on trial for good.

    The one of `apply --confirm`.
    """
    click.echo(trial.refuse(config) if refused else trial.confirm(config))


@cli.command()
@click.argument("host", type=HOST)
@click.option("--to", "destination", metavar="ADDRESS", help="Only towards this outside address.")
@for_option
@reason_option
@config_option
def allow(host: str, destination: str | None, for_: str, reason: str, config: Path) -> None:
    """Let HOST speak SMTP to the outside for a time.

    An exception, ended by the kernel itself.
    """
    click.echo(orders.give(config, orders.order("exception", reason, for_, host, destination)))


@cli.command()
@click.argument("host", type=HOST)
@for_option
@reason_option
@config_option
def quarantine(host: str, for_: str, reason: str, config: Path) -> None:
    """Close SMTP for HOST altogether for a time.

    Towards the relay too, established connections included.
    """
    click.echo(orders.give(config, orders.order("quarantine", reason, for_, host)))


@cli.command("open")
@for_option
@reason_option
@config_option
def open_(for_: str, reason: str, config: Path) -> None:
    """Open port 25 for everybody for a time.

    For emergencies; it is counted meanwhile, and ends by itself.
    """
    click.echo(orders.give(config, orders.order("open", reason, for_)))


@cli.command()
@click.argument("host", type=HOST, required=False)
@reason_option
@config_option
def release(host: str | None, reason: str, config: Path) -> None:
    """End what stands on HOST before its time, and forgive it.

    Its exceptions and quarantines; without HOST, shuts port 25 again. A forgiven host is clean; the
    destinations that it has tried do not convict it again, new ones do.
    """
    click.echo(orders.end(config, Host(host) if host else None, reason))


cli.add_command(exchange)
cli.add_command(exchange_setup)
cli.add_command(explain)
cli.add_command(init)
cli.add_command(mta_config)
cli.add_command(notify)
cli.add_command(replay_)
cli.add_command(tune)
cli.add_command(completion("egressguard"))
add_examples(cli, EXAMPLES)


def main() -> None:
    """The entry point `egressguard`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal must not end in a traceback
    # 1, as Python has it for a defect, would say that a host is compromised.
    sys.exit(finish("egressguard", lambda: cli.main(prog_name="egressguard", standalone_mode=False), FAILED))
