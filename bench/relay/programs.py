"""The programs that are measured and those that measure; the C ones are compiled here, anew for each run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.namespaces import LabError, Namespace, wait_until

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).parent / "egressguard-milter"
NOOP_PORT, OURS_PORT = 8891, 8892
START_S = 20.0
# Limits that are checked for every message and never reached.
POLICY = """
socket = "inet:{port}@127.0.0.1"
exchange = "sqlite:{folder}/exchange.db"
max_clients = 1000000

[limits]
messages = 100000
window_s = 600.0
"""


@dataclass(frozen=True)
class Program:
    """A running milter: its port and its process."""

    name: str
    port: int
    process: subprocess.Popen[Any]

    @property
    def resident_kb(self) -> int:
        """Its memory now."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) if found else 0


def compile_c(name: str, folder: Path, libraries: Iterable[str] = ()) -> Path:
    """The path of the compiled program. Raises LabError with the compiler's words."""
    target = folder / name
    done = subprocess.run(["gcc", "-O2", "-o", target, HERE / f"{name}.c", *libraries], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"gcc {name}.c: {done.stderr}")
    return target


def noop(namespace: Namespace, folder: Path, hears: str = "mail") -> Program:
    """The C milter that does nothing; `hears` mail, or rcpt as well."""
    path = compile_c("noop_milter", folder, ["-lmilter", "-lpthread"])
    return started(namespace, "C no-op", NOOP_PORT, [path, f"inet:{NOOP_PORT}@127.0.0.1", hears])


def ours(namespace: Namespace, folder: Path, policy: str = POLICY) -> Program:
    """egressguard-milter."""
    config = folder / "egressguard-milter.toml"
    config.write_text(policy.format(port=OURS_PORT, folder=folder))
    return started(namespace, "egressguard", OURS_PORT, [COMMAND, "run", "--config", config])


def started(namespace: Namespace, name: str, port: int, argv: Iterable[str | Path], *, daemon: bool = False
            ) -> Program:
    """A program that listens on `port` now. Raises LabError with what it said instead.

    A `daemon` leaves its first process at once; the namespace ends it.
    """
    log = Path(f"/tmp/eg-bench-{os.getpid()}-{port}.log")
    with log.open("w") as output:
        process = namespace.popen(argv, stdout=output, stderr=output)
    gone = (None, 0) if daemon else (None,)
    try:
        wait_until(lambda: process.poll() not in gone or namespace.listens(port, ipv6=False), name,
                   timeout_s=START_S)
        if process.poll() not in gone:
            raise LabError(f"{name} ended with {process.returncode}")
    except LabError as error:
        raise LabError(f"{error}: {log.read_text()[-2000:]}") from None
    finally:
        log.unlink()
    return Program(name, port, process)
