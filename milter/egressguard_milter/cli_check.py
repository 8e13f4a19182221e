"""`egressguard-milter check`: whether the MTA really asks, and defers when it cannot."""

import json
import sys
from pathlib import Path

import click

from egressguard.command_line import fail
from egressguard.core.errors import EgressguardError
from egressguard_milter import mta_check_postfix, mta_check_sendmail
from egressguard_milter.endpoint import Endpoint, parse_endpoint
from egressguard_milter.mistakes import read_policy
from egressguard_milter.policy import DEFAULT_PATH

path = click.Path(path_type=Path)


@click.command("check")
@click.option("--postfix", type=path, metavar="DIR", help="Postfix's configuration directory.")
@click.option("--sendmail", type=path, metavar="FILE", help="sendmail's sendmail.cf.")
@click.option("--milter", metavar="SOCKET", help="Where the milter listens; otherwise FILE says it.")
@click.option("--config", "policy", type=path, default=DEFAULT_PATH, show_default=True, metavar="FILE",
              help="The relay's policy.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(postfix: Path | None, sendmail: Path | None, milter: str | None, policy: Path,
          as_json: bool) -> None:
    """Say what is wrong with the MTA's configuration.

    Changes nothing. Exit code: 0 nothing is wrong, 1 something is, 2 it could not be told.
    """
    try:
        if postfix is None and sendmail is None:
            raise EgressguardError("check: name the MTA's configuration: --postfix /etc/postfix or "
                                   "--sendmail /etc/mail/sendmail.cf")
        ours = _endpoint(milter, policy)
        found = [*(mta_check_postfix.findings(postfix, ours) if postfix else []),
                 *(mta_check_sendmail.findings(sendmail, ours) if sendmail else [])]
    except EgressguardError as error:
        fail("egressguard-milter", str(error))
        sys.exit(2)
    if as_json:
        click.echo(json.dumps({"correct": not found, "findings": list(map(str, found))}, indent=2))
        sys.exit(1 if found else 0)
    for finding in found:
        click.echo(str(finding))
    if found:
        sys.exit(1)
    click.echo(f"{postfix or sendmail}: correct: every message from the network is asked about at "
               f"{ours.connection}, and deferred when there is no answer")


def _endpoint(milter: str | None, policy: Path) -> Endpoint:
    try:
        return parse_endpoint(milter or read_policy(policy).socket)
    except ValueError as error:
        raise EgressguardError(f"--milter: {error}") from None
