"""Routers and relays with their real controllers and watches around one exchange, on a clock that tests turn.

Kernel and MTA are fakes; the exchange is whatever the test gives, and its calls take real time.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from egressguard.config import Site
from egressguard.controller import Controller
from egressguard.core.hosts import Host
from egressguard.core.settings import Settings
from egressguard.core.verdict import State
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.exchange import Exchange
from egressguard_milter.link import Link
from egressguard_milter.policy import Base, Policy
from egressguard_milter.reports import Reports
from egressguard_milter.signals import Signals
from egressguard_milter.watch import Watch
from tests.fakes import FakeKernel
from tests.relay.parts import as_address, parts
from tests.unit.test_controller import RULES, SETTINGS, WEB

BASE, TIGHT = 40, 2
STEP_S = 0.25
LIFETIME_S = 6.0  # the product's 30 s, scaled: a document is written anew every third of it
Connect = Callable[[], Exchange]


class Router:
    """A controller on a fake kernel."""

    def __init__(self, name: str, folder: Path, connect: Connect, now_s: float) -> None:
        settings: Settings = replace(SETTINGS, router=name, signal_lifetime_s=LIFETIME_S)
        self.kernel = FakeKernel()
        self.database = Database(folder / f"{name}.db", "boot")
        self.controller = Controller(Enforcement(Site(settings, RULES), self.kernel, self.database, "boot"),
                                     self.kernel, self.database, connect)
        self.controller.start(now_s)
        self.faults: dict[str, str] = {}

    def step(self, now_s: float) -> None:
        self.faults = self.controller.round(now_s).faults


class Relay:
    """The relay's watch with its limits."""

    def __init__(self, name: str, connect: Connect, epoch: int = 1) -> None:
        self.signals = Signals()
        policy = Policy(relay=name, limits=Base(messages=BASE), report_lifetime_s=LIFETIME_S)
        made = parts(policy, state=self.signals.state)
        self.limits, self.tallies = made.limits, made.tallies
        self.watch = Watch(self.limits, self.signals, Reports(epoch, self.limits, self.tallies, self.signals),
                           Link(connect), lambda now_s: None)

    def limit(self, now_s: float, host: Host = WEB) -> int:
        return self.limits.scaled(self.limits.allowance(as_address(host)), now_s).standing.limit

    def state(self, now_s: float) -> State:
        return self.signals.state(WEB, now_s)


class Everybody:
    """Several of each; whatever happens, no relay ever gives more than the base limit."""

    host = WEB

    def __init__(self, folder: Path, connect: Connect, routers: int = 2, relays: int = 2) -> None:
        self.now_s = 1000.0
        self.routers = [Router(f"r{n}", folder, connect, self.now_s) for n in range(routers)]
        self.relays = [Relay(f"relay{n}", connect) for n in range(relays)]

    def step(self) -> None:
        self.now_s += STEP_S
        for router in self.routers:
            router.step(self.now_s)
        for relay in self.relays:
            relay.watch.step(self.now_s)
        assert {relay.limit(self.now_s) for relay in self.relays} <= {BASE, TIGHT}
        assert all(router.kernel.table is not None for router in self.routers), "enforcement stands"

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.step()

    def until(self, limit: int, within_s: float) -> float:
        """Seconds until every relay has `limit` and no router complains."""
        began_s = self.now_s
        while self.now_s - began_s < within_s:
            self.step()
            if all(r.limit(self.now_s) == limit for r in self.relays) and not any(r.faults for r in self.routers):
                return self.now_s - began_s
        raise AssertionError(f"after {within_s} s the limits are {[r.limit(self.now_s) for r in self.relays]}, "
                             f"faults {[r.faults for r in self.routers]}")

    def compromise(self) -> None:
        """The first router sees a spambot."""
        for n in range(12):
            self.routers[0].kernel.packet(WEB, f"203.0.113.{n}")

    def close(self) -> None:
        for router in self.routers:
            router.controller.close(self.now_s)
            router.database.close()
        for relay in self.relays:
            relay.watch._link.close()
