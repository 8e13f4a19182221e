"""`egressguard-milter init`: asks or takes flags, and writes a relay's first policy."""

import socket
import sys
from dataclasses import replace
from pathlib import Path

import click

from egressguard.core.errors import ConfigError, EgressguardError
from egressguard.first_file import write_first
from egressguard_milter.first_policy import Wishes, next_steps, policy_text
from egressguard_milter.mistakes import read_policy
from egressguard_milter.policy import DEFAULT_PATH, Policy

GROUP = "egressguard-milter"
PACKAGED = Path("/usr/share/egressguard-milter/egressguard-milter.toml")
MTAS = {"postfix": Path("/etc/postfix/main.cf"), "sendmail": Path("/etc/mail/sendmail.cf")}


@click.command("init")
@click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
              metavar="FILE", help="The file to write.")
@click.option("--network", "networks", multiple=True, metavar="CIDR",
              help="Clients that may send through this relay; several times.")
@click.option("--mailserver", "mailservers", multiple=True, metavar="ADDRESS",
              help="A client that sends for many people, and may send more; several times.")
@click.option("--messages", type=int, default=Wishes.messages, show_default=True,
              help="How many each client may send in ten minutes.")
@click.option("--mta", type=click.Choice(sorted(MTAS)), help="Which mail server.  [default: what is there]")
@click.option("--relay", help="This relay's name in the exchange.  [default: the host's]")
@click.option("--socket", "endpoint", default=Wishes.socket, show_default=True, help="Where the MTA asks.")
@click.option("--exchange", default="", metavar="URL", help="Where verdicts come from.  [default: a file]")
@click.option("--exchange-key", default="", metavar="FILE", help="The site's key for an exchange.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--force", is_flag=True, help="Write over a policy that is there.")
def init(config: Path, networks: tuple[str, ...], mailservers: tuple[str, ...], messages: int,
         mta: str | None, relay: str | None, endpoint: str, exchange: str, exchange_key: str, yes: bool,
         force: bool) -> None:
    """Write a first policy, and say how to connect the MTA.

    Asks for what is not given. A sample in which nothing was changed is written over, a policy is not.
    """
    try:
        state = _state_to_keep(config, force)
        mta = mta or _mta_here(yes)
        if not networks and not yes:
            networks = _several("networks of your clients, with spaces between them")
            mailservers = mailservers or _several("mailservers among them, if any", default="")
        wishes = Wishes(relay or socket.gethostname(), networks, mailservers, messages, endpoint, state,
                        exchange, exchange_key)
        write_first(config, policy_text(wishes), read_policy, "what was named", GROUP)
    except EgressguardError as error:
        for text in str(error).splitlines():
            click.echo(f"egressguard-milter: {text}", err=True)
        sys.exit(1)
    click.echo(f"wrote {config}: {messages} messages in ten minutes for each client")
    click.echo("next:")
    for step in next_steps(wishes, mta, "" if config == DEFAULT_PATH else str(config)):
        click.echo(f"  {step}")


def _state_to_keep(config: Path, force: bool) -> str:
    """The state folder that is there, or that the package's sample names. EgressguardError at a policy."""
    there = _readable(config)
    untouched = there is not None and replace(there, state="") == Policy()
    if config.exists() and not untouched and not force:
        raise EgressguardError(f"{config}: is a policy already; --force writes over it")
    if there is None and config == DEFAULT_PATH:
        there = _readable(PACKAGED)  # its unit may write there, and hardly anywhere else
    return there.state if there is not None else ""


def _readable(path: Path) -> Policy | None:
    try:
        return read_policy(path)
    except ConfigError:
        return None


def _mta_here(yes: bool) -> str:
    found = [name for name, path in MTAS.items() if path.exists()]
    if len(found) == 1:
        return found[0]
    if yes:
        raise EgressguardError(f"{'both' if found else 'none'} of {' and '.join(sorted(MTAS))} found: "
                               "name one with --mta")
    return str(click.prompt("which mail server", type=click.Choice(sorted(MTAS))))


def _several(question: str, default: str | None = None) -> tuple[str, ...]:
    answer: str = click.prompt(question, default=default, show_default=False)
    return tuple(answer.replace(",", " ").split())
