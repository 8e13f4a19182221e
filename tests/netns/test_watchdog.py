"""The service manager hears of every round, and of none while the daemon hangs, so it can start it again."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import end

QUIET_S = 2.0  # eight rounds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def heard(manager: socket.socket, what: bytes) -> None:
    """Waits until it is told so."""
    while what not in manager.recv(1000):
        pass


def drain(manager: socket.socket) -> None:
    manager.setblocking(False)
    try:
        while manager.recv(1000):
            pass
    except BlockingIOError:
        manager.settimeout(60)


def test_every_round_feeds_the_watchdog_and_a_hanging_daemon_does_not(site: Deployment, manager: socket.socket,
                                                                      tmp_path: Path) -> None:
    daemon = site.world.router.popen([PROGRAMS / "egressguard", "run", "--config", site.router_config],
                                     env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
    try:
        heard(manager, b"READY=1")
        for _ in range(3):
            heard(manager, b"WATCHDOG=1")
        os.kill(daemon.pid, signal.SIGSTOP)
        time.sleep(0.1)
        drain(manager)
        manager.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            manager.recv(1000)
        os.kill(daemon.pid, signal.SIGCONT)
        manager.settimeout(60)
        heard(manager, b"WATCHDOG=1")
    finally:
        end(daemon)
