"""The example site, installed in the lab: both daemons run from the example configurations."""

import re
import socket
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lab.closing import Closing
from lab.installed import Installed
from lab.namespaces import LabError, end, wait_until
from lab.network import World
from lab.postfix import Postfix
from lab.sink import Sink
from lab.traffic import ROUTES
from tests.docs.reading import ROOT, Command

FILES = {"router": ROOT / "docs/examples/egressguard.toml", "relay": ROOT / "milter/egressguard-milter.toml"}
DAEMONS = {"router": "egressguard", "relay": "egressguard-milter"}
RELAYS_OWN = ("egressguard-milter", ".venv/bin/egressguard-milter", "postconf", "postfix", "postqueue", "mailq")
DAEMON = re.compile(r"(\.venv/bin/)?egressguard(-milter)? run\b")
STUBS = Path(__file__).parent / "stubs"


class ExampleSite(Closing):
    """Built, and healthy, when the constructor returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "exchange").mkdir()
        with ExitStack() as stack:
            self.world = stack.enter_context(World())
            self.sink = stack.enter_context(Sink(self.world.outside))
            self._hosts: dict[str, Installed] = {}
            self._own = stack.enter_context(ExitStack())
            for name in DAEMONS:
                self._install(name)
            self._start_postfix(stack)
            self._daemons: dict[str, subprocess.Popen[Any]] = {}
            for name, program in DAEMONS.items():
                self._start(name, [program, "run"])
            wait_until(lambda: self.host("router").shell("egressguard status").returncode == 0, "a healthy site")
            self._stack = stack.pop_all()

    def host(self, name: str) -> Installed:
        """A host of the lab with files of its own."""
        if name not in self._hosts:
            namespace = getattr(self.world, name)
            self._hosts[name] = self._own.enter_context(Installed(namespace, self.folder, self.folder / "exchange"))
        return self._hosts[name]

    def run(self, command: Command) -> None:
        """Runs a documented command where it belongs. Raises AssertionError when it ends in another way."""
        name = command.host or ("relay" if command.text.split()[0] in RELAYS_OWN else "router")
        if DAEMON.match(command.text):
            self._start(name, command.text.split())
            return
        path = f"{STUBS}:{ROOT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = self.host(name).shell(command.text, environment={"PATH": path})
        assert done.returncode == command.exit_code, (
            f"{command.document}: on {name}: {command.text}\nexit code {done.returncode}, "
            f"not {command.exit_code}: {done.stdout}{done.stderr}")

    def log(self, name: str) -> str:
        """What a host's daemon has said."""
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def _install(self, name: str) -> None:
        target = self.host(name).path(f"/etc/egressguard/{FILES[name].name}")
        target.write_text(FILES[name].read_text())

    def _start_postfix(self, stack: ExitStack) -> None:
        """With /etc/postfix as its configuration, so that `postconf` and `postfix reload` mean this one."""
        postfix = stack.enter_context(Postfix(self.world.relay, networks=_networks(), routes=ROUTES, milter=8892))
        self.host("relay").shell(
            f"mount --bind {postfix.config} /etc/postfix; mkdir -p /etc/mail; "
            "echo 'Connect:198.51.100 RELAY' >/etc/mail/access").check_returncode()

    def _start(self, name: str, argv: list[str]) -> None:
        """As systemd starts a unit of Type=notify; one that runs already makes room."""
        if name in self._daemons:
            end(self._daemons.pop(name))
        address = self.folder / f"{name}.notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(address))
            ready.settimeout(30)
            self._daemons[name] = self.host(name).start(argv, self.folder / f"{name}.log",
                                                        {"NOTIFY_SOCKET": str(address)})
            try:
                while b"READY=1" not in ready.recv(4096).split(b"\n"):
                    pass
            except TimeoutError:
                raise LabError(f"{argv} did not become ready: {self.log(name)}") from None


def _networks() -> Iterable[str]:
    return "127.0.0.0/8", "[::1]/128", "192.0.2.0/26", "198.51.100.0/24", "[2001:db8::]/32"
