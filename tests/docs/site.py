"""The example site, installed in the lab: both daemons run from the example configurations."""

import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from lab.closing import Closing
from lab.installed import Installed
from lab.namespaces import LabError, wait_until
from lab.network import World
from lab.postfix import Postfix
from lab.sink import Sink
from lab.topology import SOMEBODY4
from lab.traffic import ROUTES
from tests.docs.reading import ROOT, Command

FILES = {"router": ROOT / "docs/examples/egressguard.toml", "relay": ROOT / "milter/egressguard-milter.toml"}
DAEMONS = {"router": "egressguard", "relay": "egressguard-milter"}
RELAYS_OWN = ("egressguard-milter", ".venv/bin/egressguard-milter", "postconf", "postfix", "postqueue", "mailq")
DAEMON = re.compile(r"(\.venv/bin/)?egressguard(-milter)? run\b")
# What is asked right after a change may be asked before it is there: the daemon looks four times a second.
LOOKS, SETTLES_S = re.compile(r"(\.venv/bin/)?egressguard(-milter)? (status|hosts|history|plan)\b"), 60.0


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
            for name, program in DAEMONS.items():
                self._systemctl(name, "start", program)
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
            self._run_daemon(name, command.text)
            return
        done = self.host(name).shell(command.text)
        deadline = time.monotonic() + SETTLES_S
        while (LOOKS.match(command.text) and done.returncode != command.exit_code
               and "Usage:" not in done.stderr and time.monotonic() < deadline):
            done = self.host(name).shell(command.text)
        assert done.returncode == command.exit_code, (
            f"{command.document}: on {name}: {command.text}\nexit code {done.returncode}, "
            f"not {command.exit_code}: {done.stdout}{done.stderr}")

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def _run_daemon(self, name: str, command: str) -> None:
        """In the place of the service, until it answers as the service does; then that one runs again."""
        self._systemctl(name, "stop", DAEMONS[name])
        unit = self.host(name).path(f"/etc/systemd/system/{DAEMONS[name]}.service")
        unit.write_text(f"[Service]\nType=notify\nWorkingDirectory={ROOT}\nExecStart={command}\n")
        self._systemctl(name, "start", DAEMONS[name])
        unit.unlink()

    def _systemctl(self, name: str, verb: str, unit: str) -> None:
        done = self.host(name).shell(f"systemctl {verb} {unit}")
        if done.returncode != 0:
            raise LabError(f"systemctl {verb} {unit}: {done.stdout}{done.stderr}")

    def _install(self, name: str) -> None:
        target = self.host(name).path(f"/etc/egressguard/{FILES[name].name}")
        target.write_text(FILES[name].read_text())

    def _start_postfix(self, stack: ExitStack) -> None:
        """With /etc/postfix as its configuration, so that `postconf` and `postfix reload` mean this one."""
        postfix = stack.enter_context(Postfix(self.world.relay, networks=_networks(), routes=ROUTES | {"example.org": SOMEBODY4}, milter=8892))
        self.host("relay").shell(
            f"mount --bind {postfix.config} /etc/postfix; mkdir -p /etc/mail; "
            "echo 'Connect:198.51.100 RELAY' >/etc/mail/access").check_returncode()


def _networks() -> Iterable[str]:
    return "127.0.0.0/8", "[::1]/128", "192.0.2.0/26", "198.51.100.0/24", "[2001:db8::]/32"
