"""A host is a network namespace; whatever was started in it ends with it, also after an exception.

Names carry the pid of the run that made them, so that the next run can remove what a crashed one
left behind and never touches a living one.
"""

import ctypes
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lab.closing import Closing

P = ParamSpec("P")
R = TypeVar("R")

NETNS_FOLDER = Path("/run/netns")
OUR_NAME = re.compile(r"eg-(\d+)-\d+-")
CLONE_NEWNET = 0x40000000
TERM_S = 5.0
PATIENCE_S = 60.0  # for what comes at once, on a machine that others use as well

_serial = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab could not be built or used; the text says what was attempted."""


class Namespace(Closing):
    """One host: a network namespace with `lo` up, and the processes started in it.

    Raises LabError without root, or when the kernel refuses.
    """

    def __init__(self, label: str) -> None:
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces: run it as root")
        remove_leftovers()
        self.label = label
        self.name = f"eg-{os.getpid()}-{next(_serial)}-{label}"
        self.path = NETNS_FOLDER / self.name
        self._processes: list[subprocess.Popen[Any]] = []
        _ip("netns", "add", self.name)
        self.sysctl(QUIET)
        self.ip("link set lo up")

    def ip(self, *commands: str) -> None:
        """Runs `ip` commands in here, all in one process; the first that fails raises LabError."""
        _ip("-n", self.name, "-batch", "-", batch="\n".join(commands) + "\n")

    def link(self, interface: str, peer: "Namespace", peer_interface: str, mac: str) -> None:
        """A wire from `interface` (with this MAC) to an interface of `peer`; both come up."""
        self.ip(
            f"link add {interface} address {mac} type veth peer name {peer_interface} netns {peer.name}",
            f"link set {interface} up",
        )
        peer.ip(f"link set {peer_interface} up")

    def sysctl(self, values: Mapping[str, str | int]) -> None:
        """Sets keys such as `net.ipv4.ip_forward` in here."""

        def write() -> None:
            # /proc/sys/net shows the namespace of the calling thread.
            for key, value in values.items():
                Path("/proc/sys", *key.split(".")).write_text(f"{value}\n")

        self.call(write)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns when it runs in here, in a thread of its own.

        A socket opened in it stays in this namespace for its life, wherever it is used later.
        """

        def inside() -> R:
            _enter(self.path)
            return function(*args, **kwargs)

        with ThreadPoolExecutor(1, thread_name_prefix=self.label) as thread:
            return thread.submit(inside).result()

    def popen(self, argv: Iterable[str | Path], **kwargs: Any) -> subprocess.Popen[Any]:
        """Starts a program in here; it is ended by close() at the latest."""
        process = subprocess.Popen(self._inside(argv), **kwargs)
        self._processes.append(process)
        return process

    def run(
        self, argv: Iterable[str | Path], *, timeout_s: float = 60.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program in here to its end. Raises LabError with its output if it fails."""
        command = self._inside(argv)
        done = subprocess.run(
            command, input=stdin, text=True, capture_output=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            program = " ".join(command[2:])
            raise LabError(f"{self.label}: {program}: {done.stdout}{done.stderr}".strip())
        return done

    def listens(self, port: int, *, ipv6: bool) -> bool:
        """Whether some process in here listens on this TCP port; no connection is made."""
        # /proc/net would be the namespace of the process, not of the thread.
        table = Path("/proc/thread-self/net", "tcp6" if ipv6 else "tcp")
        listening = re.compile(rf":{port:04X} [0-9A-F]+:0000 0A ")
        return listening.search(self.call(table.read_text)) is not None

    def wait_until_listening(self, port: int, *, timeout_s: float | None = None) -> None:
        """Returns once something listens on the port in both families."""
        wait_until(
            lambda: self.listens(port, ipv6=False) and self.listens(port, ipv6=True),
            f"{self.label}: a listener on port {port} in both families",
            timeout_s=timeout_s,
        )

    def close(self) -> None:
        """Ends what runs in here (SIGTERM, then SIGKILL) and removes the namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            end(process)
        self._processes.clear()
        _remove(self.name)

    def _inside(self, argv: Iterable[str | Path]) -> list[str]:
        return ["nsenter", f"--net={self.path}", *map(str, argv)]


# Read by interfaces when they are made, hence `default`. No address detection: an IPv6 address
# works at once. No redirects: two hosts on one segment must go on meeting their router. rp_filter
# off: what stops a forged source must be the rules under test, not this kernel's setting.
QUIET: dict[str, str | int] = {
    f"net.{key}": value
    for scope in ("all", "default")
    for key, value in {
        f"ipv6.conf.{scope}.accept_dad": 0,
        f"ipv6.conf.{scope}.accept_ra": 0,
        f"ipv6.conf.{scope}.accept_redirects": 0,
        f"ipv4.conf.{scope}.accept_redirects": 0,
        f"ipv4.conf.{scope}.send_redirects": 0,
        f"ipv4.conf.{scope}.rp_filter": 0,
    }.items()
}


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float | None = None) -> None:
    """Polls until the condition holds. Raises LabError naming `what` after `timeout_s`, else PATIENCE_S."""
    timeout_s = PATIENCE_S if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.01)


@contextmanager
def impatient(seconds: float = 10.0) -> Iterator[None]:
    """Within it `wait_until` gives up sooner, by default after two of the daemon's full comparisons.

    What a mutant never does need not be waited for as long as what a slow machine does late.
    """
    global PATIENCE_S
    before, PATIENCE_S = PATIENCE_S, seconds
    try:
        yield
    finally:
        PATIENCE_S = before


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a process that we started, and closes its pipes."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(TERM_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def remove_leftovers() -> None:
    """Removes the namespaces of runs of ours that crashed: those whose pid is gone."""
    if not NETNS_FOLDER.is_dir():
        return
    for path in NETNS_FOLDER.iterdir():
        found = OUR_NAME.match(path.name)
        if found and not Path("/proc", found[1]).exists():
            # Another run may be removing the same one.
            with suppress(LabError):
                _remove(path.name)


def _remove(name: str) -> None:
    """Daemons left our process list when they forked away; they are found by their namespace."""
    if not (NETNS_FOLDER / name).exists():
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + TERM_S
        while pids := _pids(name):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
    _ip("netns", "del", name)


def _pids(name: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", name).split() if int(pid) != os.getpid()]


def _ip(*arguments: str, batch: str = "") -> str:
    done = subprocess.run(["ip", *arguments], input=batch, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}\n{batch}".strip())
    return done.stdout


def _enter(path: Path) -> None:
    # os.setns came with Python 3.12.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise LabError(f"entering {path}: {os.strerror(number)}")
    finally:
        os.close(descriptor)
