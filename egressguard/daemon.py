"""`egressguard run`: rounds at a steady pace, and at once when somebody changes the ruleset, until a signal.

Signals only mark a byte in a pipe, so none interrupts a transaction; a SIGKILL can, and then the kernel
has applied it as a whole or not at all.
"""

import logging
import os
import select
import signal
import time
from dataclasses import replace
from pathlib import Path

from egressguard.alarm import Alarm
from egressguard.boot import boot_id, now_s
from egressguard.canary_watch import CanaryWatch
from egressguard.config import Site, read_site
from egressguard.controller import Controller
from egressguard.core.errors import EgressguardError
from egressguard.core.wanted import kept
from egressguard.database import open_database
from egressguard.deliverer import Deliverer
from egressguard.enforcement import Enforcement
from egressguard.exchange import open_exchange
from egressguard.forgeries import Census
from egressguard.heartbeat import Heartbeat
from egressguard.heartbeat import read as read_heartbeat
from egressguard.kernel import Netfilter
from egressguard.kernel.events import Culprit, RulesetEvents
from egressguard.last_good import LastGood
from egressguard.metrics import RouterMetrics
from egressguard.metrics_endpoint import serve
from egressguard.service_manager import notify

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(config: Path) -> None:
    """Runs the daemon in the foreground. Raises EgressguardError when it cannot start."""
    os.umask(0o007)  # nobody outside our user and group may lock, read or write what we leave
    site = read_site(config)
    settings = site.settings
    kernel = Netfilter(claims=True)
    wake = Wake()
    _, last = read_heartbeat(Path(settings.runtime_directory))
    heartbeat = Heartbeat(Path(settings.runtime_directory))
    database, fault = open_database(Path(settings.database), boot_id())
    last_good = LastGood(Path(settings.database).parent, kept(settings))
    enforcement = Enforcement(site, kernel, database, boot_id(), last_good)
    controller = Controller(enforcement, kernel, database,
                            lambda: open_exchange(settings.exchange, settings.exchange_key), fault, config)
    controller.start(now_s(), last.at_s if last is not None and last.at_s < now_s() else None)
    alarm = Alarm(database)
    deliverer = Deliverer(Path(settings.database), settings.router)
    metrics = RouterMetrics(Census().counts)
    serve(settings.metrics, metrics.collect)
    notify("READY=1")
    log.info("started router=%s mode=%s period_s=%s", settings.router, settings.mode, settings.period_s)
    canary = CanaryWatch(database)
    _rounds(config, enforcement, controller, canary, heartbeat, wake, metrics, alarm, deliverer)
    notify("STOPPING=1")
    canary.close()
    deliverer.close()
    log.info("stopped: the rules stay loaded and go on blocking")
    controller.close(now_s())
    database.close()
    heartbeat.close()
    kernel.close()


class Wake:
    """Waits for the next round's time, a signal, or a change of the ruleset by somebody else."""

    def __init__(self) -> None:
        self._signals, self._mark = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._mark, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)  # without a handler nothing is marked
        self._events = RulesetEvents()
        self._heard: list[Culprit] = []

    def wait(self, seconds: float) -> list[int]:
        """The signals that came meanwhile; returns at once when somebody changes the ruleset."""
        select.select([self._signals, self._events.fileno()], [], [], max(0.0, seconds))
        try:
            marked = list(os.read(self._signals, 1000))
        except BlockingIOError:
            marked = []
        self._heard = self._events.culprits()
        return marked

    def culprits(self) -> list[Culprit]:
        """Who changed the ruleset until now, since the wait before the last one."""
        return [*self._heard, *self._events.culprits()]


def _rounds(config: Path, enforcement: Enforcement, controller: Controller, canary: CanaryWatch,
            heartbeat: Heartbeat, wake: Wake, metrics: RouterMetrics, alarm: Alarm,
            deliverer: Deliverer) -> None:
    while True:
        due_s = now_s() + enforcement.site.settings.period_s
        pulse = controller.round(now_s(), wake.culprits)
        pulse = replace(pulse, canary=canary.step(enforcement.site.settings, now_s()))
        heartbeat.beat(pulse)
        settings = enforcement.site.settings
        alarm.look(settings, pulse, controller.totals(), controller.news())
        deliverer.step(settings.notify, now_s())
        metrics.figures = controller.figures(pulse, alarm.waiting(now_s()))
        notify("WATCHDOG=1")
        marked = wake.wait(due_s - now_s())
        if signal.SIGTERM in marked or signal.SIGINT in marked:
            return
        if signal.SIGHUP in marked:
            _reload(config, controller)


def _reload(config: Path, controller: Controller) -> None:
    """Takes the file over; the configuration in force stays when the file cannot be used."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        site: Site = read_site(config)
        controller.reconfigure(site, now_s())
        log.info("reloaded mode=%s", site.settings.mode)
    except EgressguardError as error:
        log.error("not reloaded, the configuration in force stays: %s", error)
    notify("READY=1")
