"""`egressguard run`: rounds at a steady pace until a signal ends them.

Signals are blocked and waited for between rounds, so none can interrupt a transaction; a SIGKILL can, and
then the kernel has applied it as a whole or not at all.
"""

import logging
import signal
import time
from pathlib import Path

from egressguard.boot import boot_id, now_s
from egressguard.config import read_settings, rules_path
from egressguard.controller import Controller
from egressguard.core.errors import EgressguardError
from egressguard.core.settings import Settings
from egressguard.database import Database
from egressguard.exchange import open_exchange
from egressguard.heartbeat import Heartbeat
from egressguard.kernel import Netfilter
from egressguard.service_manager import notify

log = logging.getLogger(__name__)
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def run(config: Path) -> None:
    """Runs the daemon in the foreground. Raises EgressguardError when it cannot start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    settings = read_settings(config)
    kernel = Netfilter()
    heartbeat = Heartbeat(Path(settings.runtime_directory))
    database = Database(Path(settings.database), boot_id())
    controller = Controller(settings, rules_path(settings), kernel, database,
                            lambda: open_exchange(settings.exchange), boot_id())
    controller.start(now_s())
    notify("READY=1")
    log.info("started router=%s mode=%s period_s=%s", settings.router, settings.mode, settings.period_s)
    _rounds(config, settings, controller, heartbeat)
    notify("STOPPING=1")
    log.info("stopped: the rules stay loaded and go on blocking")
    controller.close(now_s())
    database.close()
    heartbeat.close()
    kernel.close()


def _rounds(config: Path, settings: Settings, controller: Controller, heartbeat: Heartbeat) -> None:
    while True:
        due_s = now_s() + settings.period_s
        heartbeat.beat(controller.round(now_s()))
        notify("WATCHDOG=1")
        received = signal.sigtimedwait(SIGNALS, max(0.0, due_s - now_s()))
        if received is None:
            continue
        if received.si_signo != signal.SIGHUP:
            return
        settings = _reloaded(config, settings, controller)


def _reloaded(config: Path, settings: Settings, controller: Controller) -> Settings:
    """The settings after SIGHUP: the file's, or the ones in force when the file cannot be used."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        changed = read_settings(config)
        controller.reconfigure(changed, rules_path(changed), now_s())
        settings = changed
        log.info("reloaded mode=%s", settings.mode)
    except EgressguardError as error:
        log.error("not reloaded, the settings in force stay: %s", error)
    notify("READY=1")
    return settings
