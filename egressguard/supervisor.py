"""Returns to the former configuration when a trial ends without a confirmation: a process of its own, which
outlives the command, its terminal and the daemon.

    python -m egressguard.supervisor CONFIG DATABASE NUMBER

It says `ready` on its standard output before the trial may begin; end of its standard input before that
means that the command has died, and that there is nothing to supervise. Where systemd runs it gets a scope
of its own, so that the end of a login session or of a service does not take it along.
"""

import contextlib
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from egressguard.boot import boot_id, now_s
from egressguard.configurations import Configurations
from egressguard.core.errors import DatabaseError, EgressguardError, KernelError
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.kernel import Netfilter
from egressguard.own_program import own_program

log = logging.getLogger(__name__)
READY = b"ready\n"
READY_S = 20.0
LOOK_EVERY_S = 0.2
SETTLE_S = 2.0  # a round of the daemon that began before the end may still put the candidate back
RETRY_S = 60.0
SYSTEMD = Path("/run/systemd/system")
SCOPE = ("--scope", "--collect", "--quiet", "--description=egressguard: a configuration on trial")


class Supervisor:
    """The command's side: a started supervisor. Raises EgressguardError when it does not become ready."""

    def __init__(self, config: Path, database: Path, number: int) -> None:
        argv = own_program(__name__, str(config.absolute()), str(database), str(number))
        scope = [[shutil.which("systemd-run") or "", *SCOPE]] if SYSTEMD.exists() and shutil.which(
            "systemd-run") else []
        for prefix in [*scope, []]:
            self._process = subprocess.Popen(
                [*prefix, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True, cwd="/")
            if self._ready():
                return
            self._process.kill()
            self._process.wait()
        raise EgressguardError("the supervisor of the trial did not start: nothing was changed")

    def _ready(self) -> bool:
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], READY_S)[0]:
            return False
        return bool(pipe.readline() == READY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets it go on alone; if the trial has not begun, it ends."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def watch(config: Path, path: Path, number: int, ready: Callable[[], None]) -> None:
    """Waits for the end of the trial `number`, and returns to the former configuration unless confirmed."""
    ended: list[int] = []
    for ignored in (signal.SIGHUP, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))  # whoever ends us wants the former one back
    kernel, database = Netfilter(), Database(path, boot_id())
    configurations = Configurations(database, config)
    former = configurations.current(now_s())
    if former is None:
        return
    enforcement = Enforcement(former.site, kernel, database, boot_id())
    ready()
    if not _begun(configurations, number):
        return
    while not ended and (left_s := _left_s(configurations, number)) > 0:
        select.select([], [], [], min(LOOK_EVERY_S, left_s))
    if _confirmed(configurations, number):
        return
    _return(enforcement, configurations, database, number)


def _begun(configurations: Configurations, number: int) -> bool:
    """Whether the trial begins; it does not when the command dies first."""
    while configurations.state(number) == "proposed":
        if select.select([0], [], [], LOOK_EVERY_S)[0] and configurations.state(number) == "proposed":
            configurations.refuse(number)
            return False
    return True


def _left_s(configurations: Configurations, number: int) -> float:
    return next((v.left_s(boot_id(), now_s()) for v in configurations.versions() if v.number == number), 0.0)


def _confirmed(configurations: Configurations, number: int) -> bool:
    """Whether nothing is to be returned to: it was confirmed, or something else was put in force since."""
    try:
        return configurations.state(number) not in ("trial", "refused")
    except DatabaseError:
        return False


def _return(enforcement: Enforcement, configurations: Configurations, database: Database, number: int
            ) -> None:
    """Puts the former configuration into the kernel first; what is written down may wait for a disk."""
    until_s, retry_until_s = now_s() + SETTLE_S, now_s() + RETRY_S
    loaded = False
    if enforcement.owned_elsewhere():  # then the daemon lives, and goes back once that is written down
        _refuse(configurations, database, number)
    while not loaded or now_s() < until_s:
        try:
            if not loaded:
                enforcement.load(now_s(), "the configuration on trial was not confirmed")
            loaded = True
            _refuse(configurations, database, number)
            enforcement.ensure(now_s())
        except KernelError as error:
            log.error("%s", error)
            if now_s() > retry_until_s:
                raise
        select.select([], [], [], LOOK_EVERY_S)


def _refuse(configurations: Configurations, database: Database, number: int) -> None:
    with contextlib.suppress(DatabaseError):
        if configurations.refuse(number) is not None:
            database.event(now_s(), "rollback", "the configuration on trial was not confirmed")


def _say_ready() -> None:
    os.write(1, READY)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), _say_ready)
