"""egressguard as a site would run it in the lab's world: one configuration for the router, one for the relay.

The two daemons are different network hosts; they share one file, the exchange.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.namespaces import LabError, Namespace, end, wait_until
from lab.network import MAILSERVER, RELAY, WEB1, WEB2, Place, World

PROGRAMS = Path(sys.executable).parent
MILTER_PORT = 8892
READY_S = 120.0

FILES = """
rules = "{rules}"
exchange = "sqlite:{folder}/exchange.db"
database = "{folder}/router.db"
runtime_directory = "{folder}/run"
"""
ROUTER = """
router = "router"
mode = "{mode}"

[[inside]]
interfaces = ["dmz"]
networks = ["192.0.2.0/26", "2001:db8:0:a::/64", "2001:db8:0:b::/64"]

[[inside]]
interfaces = ["web"]
networks = ["198.51.100.0/24", "2001:db8:0:11::/64", "2001:db8:0:12::/64"]
"""
MACHINE = """
[[{kind}]]
name = "{place.name}"
addresses = ["{place.ipv4}", "{place.ipv6}"]
"""
MILTER_FILES = """
exchange = "sqlite:{folder}/exchange.db"
"""
MILTER = """
relay = "relay"
socket = "inet:{port}@127.0.0.1"

[limits]
messages = {messages}
window_s = 600.0

[tiers.suspect]
factor = 0.5

[tiers.compromised]
factor = 0.1
"""


def router_config(mode: str = "enforce", inventory: Sequence[Place] = (WEB1, WEB2)) -> str:
    """What a router's configuration says about the lab's network; the files stay the defaults."""
    machines = [("sender", RELAY), ("sender", MAILSERVER), *(("host", place) for place in inventory)]
    return "".join([ROUTER.format(mode=mode),
                    *(MACHINE.format(kind=kind, place=place) for kind, place in machines)])


def relay_config(messages: int) -> str:
    """What a relay's configuration says; `messages` is what a normal host may send in ten minutes."""
    return MILTER.format(port=MILTER_PORT, messages=messages)


class Deployment:
    """The configuration files in `folder`, and the daemons started from them in `world`.

    `messages` is what a normal host may send through the relay in ten minutes. `change` is Python that the
    router's programs run first: what takes a defence away, to see that a test notices.
    """

    def __init__(self, world: World, folder: Path, *, mode: str = "enforce", messages: int = 40,
                 inventory: Sequence[Place] = (WEB1, WEB2), rules: Path | None = None) -> None:
        self.world, self.folder, self.rules = world, folder, rules or ""
        self.router_config = folder / "egressguard.toml"
        self.milter_config = folder / "egressguard-milter.toml"
        self.messages, self.change = messages, ""
        self.exchange_url, self.exchange_key = f"sqlite:{folder}/exchange.db", ""
        self.write_router_config(mode, inventory)
        self.milter_config.write_text(MILTER_FILES.format(folder=folder) + relay_config(messages))

    def write_router_config(self, mode: str, inventory: Sequence[Place] = (WEB1, WEB2)) -> None:
        """Writes the router's configuration; a running daemon takes it over at SIGHUP."""
        self.router_config.write_text(
            FILES.format(folder=self.folder, rules=self.rules) + router_config(mode, inventory))

    def amend(self, old: str, new: str) -> None:
        """Changes the router's configuration in one place; appends `new` when `old` is empty."""
        text = self.router_config.read_text()
        if old not in text:
            raise LabError(f"the configuration has no {old!r}")
        self.router_config.write_text(text.replace(old, new, 1) if old else f"{text}\n{new}\n")

    def start_router(self) -> subprocess.Popen[Any]:
        """`egressguard run` on the router; returns when it says that it enforces."""
        return self._start(self.world.router, "egressguard", self.router_config)

    def start_milter(self) -> subprocess.Popen[Any]:
        """`egressguard-milter run` on the relay; returns when it says that it serves."""
        return self._start(self.world.relay, "egressguard-milter", self.milter_config)

    def status(self) -> tuple[int, dict[str, Any]]:
        """The exit code and the JSON of `egressguard status` on the router."""
        done = self.egressguard("status", "--json")
        return done.returncode, json.loads(done.stdout)

    def egressguard(self, *arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
        """Runs an egressguard command on the router, with its configuration."""
        argv = ["nsenter", f"--net={self.world.router.path}", *self._program("egressguard"), *arguments,
                "--config", self.router_config]
        return subprocess.run(list(map(str, argv)), text=True, capture_output=True, check=False,
                              timeout=60, env={**os.environ, "COLUMNS": str(columns)})

    def log(self, program: str) -> str:
        """What a daemon has logged so far."""
        path = self.folder / f"{program}.log"
        return path.read_text() if path.exists() else ""

    def _program(self, name: str) -> list[str]:
        if not self.change or name != "egressguard":
            return [str(PROGRAMS / name)]
        return [sys.executable, "-c", f"{self.change}\nfrom egressguard.__main__ import main\nmain()"]

    def _start(self, host: Namespace, program: str, config: Path) -> subprocess.Popen[Any]:
        address = self.folder / f"{program}.notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, \
                (self.folder / f"{program}.log").open("a") as log:
            ready.bind(str(address))
            process = host.popen([*self._program(program), "run", "--config", config], stdout=log, stderr=log,
                                 env={**os.environ, "NOTIFY_SOCKET": str(address)})
            try:
                _wait_ready(ready, process)
            except LabError as error:
                end(process)
                raise LabError(f"{program}: {error}\n{self.log(program)}") from error
        address.unlink()
        return process

def _wait_ready(ready: socket.socket, process: subprocess.Popen[Any]) -> None:
    """Waits for READY=1 as systemd does for a unit of Type=notify."""
    deadline = time.monotonic() + READY_S
    ready.settimeout(0.1)
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if b"READY=1" in ready.recv(4096).split(b"\n"):
                return
        except TimeoutError:
            continue
    raise LabError(f"did not become ready (exit code {process.poll()})")

__all__ = ["MILTER_PORT", "Deployment", "wait_until"]
