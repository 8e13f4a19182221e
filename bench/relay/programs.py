"""The programs that are measured and those that measure; the C ones are compiled here, anew for each run."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.namespaces import LabError, Namespace, wait_until

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).parent / "egressguard-milter"
PYTHON = (sys.executable, "-m")
START_S = 120.0  # rspamd compiles its expressions first
# Every limit is checked for every message, over two windows, durably; none is reached.
POLICY = """
socket = "{socket}"
exchange = "sqlite:{folder}/exchange.db"
state = "{folder}/state"
max_clients = 1000000

[limits]
window_s = 600.0
messages = 100000
recipients = 100000
connections = 100000
refused_recipients = 100000
open_connections = 2000
recipients_per_message = 1000
messages_per_connection = 1000000
also = [{{ window_s = 86400.0, messages = 100000 }}]

[sender_limits]
messages = 100000
"""


@dataclass(frozen=True)
class Program:
    """A running milter: its socket as libmilter writes it, and its process."""

    name: str
    socket: str
    process: subprocess.Popen[Any]

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self.socket.removeprefix("inet:").partition("@")[0])

    @property
    def resident_kb(self) -> int:
        """Its memory now."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) if found else 0

    @property
    def cpu_s(self) -> float:
        """Its processor time so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait()


def compile_c(name: str, folder: Path, libraries: Iterable[str] = ()) -> Path:
    """The path of the compiled program. Raises LabError with the compiler's words."""
    target = folder / name
    done = subprocess.run(["gcc", "-O2", "-o", target, HERE / f"{name}.c", *libraries], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"gcc {name}.c: {done.stderr}")
    return target


def noop(namespace: Namespace, folder: Path, hears: str, socket: str) -> Program:
    """The C milter that does nothing; `hears` mail, or rcpt as well."""
    path = compile_c("noop_milter", folder, ["-lmilter", "-lpthread"])
    return started(namespace, "C no-op", socket, [path, socket, hears])


def ours(namespace: Namespace, folder: Path, socket: str) -> Program:
    """egressguard-milter."""
    return started(namespace, "egressguard", socket, [COMMAND, "run", "--config", _policy(folder, socket)])


def on_libmilter(namespace: Namespace, folder: Path, socket: str) -> Program:
    """The same limits on libmilter, by pymilter, with counts of its own."""
    apart = folder / "on-libmilter"
    apart.mkdir()
    return started(namespace, "on pymilter", socket,
                   [*PYTHON, "bench.relay.on_libmilter", _policy(apart, socket)])


def floor(namespace: Namespace, socket: str) -> Program:
    """Our server and protocol, without limits."""
    return started(namespace, "without limits", socket, [*PYTHON, "bench.relay.floor_milter", socket])


def _policy(folder: Path, socket: str) -> Path:
    config = folder / "egressguard-milter.toml"
    config.write_text(POLICY.format(socket=socket, folder=folder))
    return config


def tcp(port: int) -> str:
    """A socket for programs that are spoken to directly, or over a port anyway."""
    return f"inet:{port}@127.0.0.1"


def started(namespace: Namespace, name: str, socket: str, argv: Iterable[str | Path], *, daemon: bool = False
            ) -> Program:
    """A program that listens on `socket` now. Raises LabError with what it said instead.

    A `daemon` leaves its first process at once; the namespace ends it.
    """
    with tempfile.TemporaryFile("w+") as output:
        # No umask: an MTA's unprivileged daemons must be able to write to a unix socket.
        process = namespace.popen(argv, stdout=output, stderr=output, umask=0)
        gone = (None, 0) if daemon else (None,)
        program = Program(name, socket, process)
        try:
            wait_until(lambda: process.poll() not in gone or _listens(namespace, program), name,
                       timeout_s=START_S)
            if process.poll() not in gone:
                raise LabError(f"{name} ended with {process.returncode}")
        except LabError as error:
            output.seek(0)
            raise LabError(f"{error}: {output.read()[-2000:]}") from None
    return program


def _listens(namespace: Namespace, program: Program) -> bool:
    if program.socket.startswith("unix:"):
        return Path(program.socket.removeprefix("unix:")).is_socket()
    return namespace.listens(program.port, ipv6=False)
