"""`mta-config` of both programs: prints what to write into an MTA's configuration, and changes nothing."""

import click

from egressguard.core.errors import ConfigError, Mistake
from egressguard.mta_config import MTAS, ROLES, parts, site, text


@click.command("mta-config")
@click.option("--mta", type=click.Choice(MTAS), required=True, help="Which mail server.")
@click.option("--role", type=click.Choice(ROLES), required=True,
              help="client: sends through the relay (a web server). relay: limits its clients.")
@click.option("--relay", "relays", multiple=True, metavar="ADDRESS",
              help="The relay that a client sends through; several: first choice first.")
@click.option("--network", "networks", multiple=True, metavar="CIDR",
              help="The clients that may send through a relay; several times.")
@click.option("--milter", default="inet:8892@127.0.0.1", show_default=True, metavar="SOCKET",
              help="Where egressguard-milter listens, as its own configuration says.")
@click.option("--queue-run", default="5m", show_default=True, metavar="TIME",
              help="How often a client looks through its queue.")
@click.option("--queue-age", default="15m", show_default=True, metavar="TIME",
              help="How long a client keeps what was deferred before it tries again.")
@click.option("--only", metavar="FILE", help="Print only the lines of this file, such as /etc/mail/access.")
def mta_config(mta: str, role: str, relays: tuple[str, ...], networks: tuple[str, ...], milter: str,
               queue_run: str, queue_age: str, only: str | None) -> None:
    """Print the configuration of an MTA.

    A client sends everything through the relay; the relay asks for its limits. Changes nothing.
    """
    found = parts(mta, role, site(role, relays, networks, milter, queue_run, queue_age))
    if only is None:
        click.echo(text(found), nl=False)
        return
    chosen = [part.text for part in found if part.where == only]
    if not chosen:
        raise ConfigError("mta-config", [Mistake(
            "--only", f"{only[:80]!r} is none of its files; they are {', '.join(p.where for p in found)}")])
    click.echo("".join(chosen), nl=False)
