"""`apply` and `confirm`: a configuration is put in force for good, or on trial until somebody confirms it."""

import os
import select
import sys
from pathlib import Path

import click

from egressguard import heartbeat
from egressguard.boot import now_s
from egressguard.cli.orders import opened, raise_faults, seconds
from egressguard.config import Site
from egressguard.configurations import Configurations, check_fixed
from egressguard.core import trial
from egressguard.core.errors import EgressguardError
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.supervisor import Supervisor

LOOK_EVERY_S = 0.2


def apply(config: Path) -> str:
    """Loads the rules and the configuration in one transaction; a running daemon goes on with them."""
    with opened(config) as (site, database, enforcement):
        configurations = Configurations(database, config)
        configurations.check_none_on_trial(now_s())
        before = configurations.current(now_s())
        if before is not None and heartbeat.read(Path(before.site.settings.runtime_directory))[0]:
            check_fixed(before.site, site)
        number = configurations.put_in_force(site)
        try:
            enforcement.load(now_s(), "apply")
            raise_faults(enforcement)
        except EgressguardError:
            configurations.take_back(number)
            raise
        return f"applied {config}: mode {site.settings.mode}"


def try_out(config: Path, time: str) -> None:
    """Applies on trial, and asks for the confirmation where there is a terminal."""
    left_s = seconds(time, "--confirm")
    if not trial.LEAST_S <= left_s <= trial.MOST_S:
        raise EgressguardError(f"--confirm {time}: give a time from {trial.LEAST_S:.0f}s to 1d")
    with opened(config) as (site, database, enforcement):
        configurations = Configurations(database, config)
        number = _begin(config, site, configurations, enforcement, left_s)
        database.event(now_s(), "trial", f"{config} is on trial for {left_s:.0f} s")
        click.echo(f"applied {config} on trial, mode {site.settings.mode}: the former configuration returns "
                   f"unless this one is confirmed within {time}")
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            click.echo("confirm it with: egressguard confirm")
            return
        try:
            answer = _asked(configurations, number)
        except (KeyboardInterrupt, click.Abort):
            answer = False
            click.echo()
        if answer is not None:
            click.echo(_confirm(configurations, database, enforcement) if answer else
                       _refuse(configurations, database, enforcement))


def _begin(config: Path, site: Site, configurations: Configurations, enforcement: Enforcement,
           left_s: float) -> int:
    """The candidate in the kernel, and somebody who takes it out again."""
    number = configurations.propose(site, now_s())
    try:
        with Supervisor(config, Path(site.settings.database), number):
            configurations.begin(number, left_s, now_s())
        current = configurations.current(now_s())
        if current is not None:
            enforcement.adopt(current.site, current.former, current.ends_s)
            enforcement.load(now_s(), "on trial")
            raise_faults(enforcement)
    except BaseException:
        configurations.refuse(number)  # the supervisor sees it and puts the former one back
        raise
    return number


def _asked(configurations: Configurations, number: int) -> bool | None:
    """The answer at the terminal; None when the trial ended without one."""
    click.echo("Keep it? [y/N] ", nl=False)
    while configurations.state(number) == "trial" and configurations.trial_left_s(now_s()):
        if select.select([sys.stdin], [], [], LOOK_EVERY_S)[0]:
            return os.read(sys.stdin.fileno(), 100).strip().lower() in (b"y", b"yes")
    confirmed = configurations.state(number) == "in force"
    click.echo("\nconfirmed elsewhere" if confirmed else "\nnot confirmed: the former configuration returns")
    return None


def confirm(config: Path) -> str:
    """Puts the configuration on trial in force for good."""
    with opened(config) as (_, database, enforcement):
        return _confirm(Configurations(database, config), database, enforcement)


def refuse(config: Path) -> str:
    """Ends the trial now."""
    with opened(config) as (_, database, enforcement):
        return _refuse(Configurations(database, config), database, enforcement)


def _confirm(configurations: Configurations, database: Database, enforcement: Enforcement) -> str:
    current = configurations.confirm(now_s())
    enforcement.adopt(current.site)
    enforcement.apply(now_s())  # what had a time for the trial has none any more
    database.event(now_s(), "confirm", "the configuration on trial was confirmed")
    return "confirmed: the configuration is in force"


def _refuse(configurations: Configurations, database: Database, enforcement: Enforcement) -> str:
    if configurations.refuse() is None:
        raise EgressguardError("no configuration is on trial")
    database.event(now_s(), "rollback", "the configuration on trial was refused")
    current = configurations.current(now_s())
    if current is not None:
        enforcement.adopt(current.site)
        enforcement.load(now_s(), "the configuration on trial was refused")
    return "refused: the former configuration is in force again"
