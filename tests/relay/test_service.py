"""How the process begins and ends: one clear message when it cannot, nothing left behind when it did."""

import os
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from egressguard.boot import boot_id
from egressguard_milter import service
from egressguard_milter.account import Pool
from egressguard_milter.records import Record
from egressguard_milter.segments import Segments
from egressguard_milter.watch import Watch
from lab.namespaces import wait_until
from tests.relay.mta import OFFER, client, mail
from tests.relay.running import COMMAND, Milter, Site
from tests.relay.test_server import ask


def unix_policy(site: Site, path: Path) -> str:
    return f'socket = "unix:{path}"\nexchange = "sqlite:{site.exchange_path}"\n'


def test_a_bad_policy_starts_nothing_and_names_every_mistake(site: Site) -> None:
    milter = site.start('socket = "inet:8892"\nrelayx = "x"\n')
    assert milter.process.wait(30) == 2
    assert "relayx: unknown key; did you mean 'relay'?" in milter.log
    assert "Traceback" not in milter.log
    milter = site.start('socket = "inet:8892"\nrelay = ""\n')
    assert milter.process.wait(30) == 2
    assert [line.split(": ")[2] for line in milter.log.splitlines()] == ["socket", "relay"]
    assert not site.exchange_path.exists()


def refused(milter: Milter, text: str) -> bool:
    return milter.process.wait(30) == 1 and milter.log.count("\n") == 1 and text in milter.log


def test_a_port_in_use_is_one_message_and_the_first_instance_keeps_it(site: Site) -> None:
    site.run(1)
    assert refused(site.start(site.policy(1)), "Address already in use")
    assert site.relay.client("192.0.2.1").send(2) == [250, 451]


def test_a_second_instance_does_not_steal_the_first_ones_socket(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    first = site.start(unix_policy(site, path))
    first.wait_for_log("event=started")
    inode = path.stat().st_ino
    assert refused(site.start(unix_policy(site, path)), "another egressguard-milter serves it already")
    assert path.stat().st_ino == inode
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(30) == 0
    assert not path.exists()


def test_a_socket_left_by_a_killed_instance_is_taken_over(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    first = site.start(unix_policy(site, path))
    first.wait_for_log("event=started")
    first.process.kill()
    first.process.wait()
    assert stat.S_ISSOCK(path.stat().st_mode)
    site.start(unix_policy(site, path)).wait_for_log("event=started")


def test_a_reload_of_a_file_that_is_no_toml_is_refused_and_said_by_the_milter(site: Site, tmp_path: Path) -> None:
    good = unix_policy(site, tmp_path / "milter.sock") + "[limits]\nmessages = 40\n"
    milter = site.start(good)
    milter.wait_for_log("event=started")
    config = site.folder / "milter-0/policy.toml"

    def ask(*words: str) -> tuple[int, str]:
        done = subprocess.run([COMMAND, *words, "--config", config], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    config.write_text(good + "recipients = \n")
    code, text = ask("reload")
    assert code == 1
    assert "the old policy holds" in text
    milter.wait_for_log("event=reload_refused")
    assert ask("status")[0] == 2
    assert "the last reload was refused" in ask("status")[1]
    assert ask("explain", "192.0.2.1")[0] == ask("forgive", "192.0.2.1")[0] == 0
    config.write_text(good)
    assert ask("status")[0] == 2, "the file is right again, but was not read"
    assert ask("reload")[0] == ask("status")[0] == 0


def test_a_folder_of_the_exchange_that_is_not_there_is_not_made_and_named(site: Site, tmp_path: Path) -> None:
    milter = site.start(f'socket = "unix:{tmp_path}/milter.sock"\nexchange = "sqlite:{tmp_path}/nowhere/x/exchange.db"\n')
    milter.wait_for_log("event=started")
    assert f"there is no folder {tmp_path}/nowhere/x: make it, or correct the path" in milter.log
    assert "event=counts_not_durable" in milter.log
    assert not (tmp_path / "nowhere").exists()


def test_a_socket_that_was_removed_or_replaced_is_a_fault(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    milter = site.start(unix_policy(site, path))
    milter.wait_for_log("event=started")

    def status() -> tuple[int, str]:
        done = subprocess.run([COMMAND, "status", "--config", site.folder / "milter-0/policy.toml"],
                              capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    assert status()[0] == 0
    path.unlink()
    assert status()[0] == 2
    assert f"no MTA finds the socket: {path} is gone" in status()[1]
    path.touch()
    assert status()[0] == 2


def test_a_path_that_cannot_be_listened_on_is_one_message(site: Site, tmp_path: Path) -> None:
    assert refused(site.start(unix_policy(site, tmp_path / "absent/milter.sock")), "No such file")
    (tmp_path / "file").write_text("precious")
    assert refused(site.start(unix_policy(site, tmp_path / "file")), "it exists and is not a socket")
    assert (tmp_path / "file").read_text() == "precious"


def test_the_service_manager_learns_of_the_start_and_the_stop(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        milter = site.start(site.policy(1), {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        wait_until(lambda: site.relay.namespace.listens(8892, ipv6=False), "the port")
        milter.process.send_signal(signal.SIGTERM)
        assert "STOPPING=1" in iter(lambda: manager.recv(100).decode(), "")
    assert milter.process.wait(30) == 0


def test_the_service_manager_hears_nothing_more_when_the_exchange_hangs(tmp_path: Path) -> None:
    """So it starts the milter again; meanwhile verdicts end with their leases and the limits go on."""
    stopped = Watch.__new__(Watch)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            stopped.stepped_s = 100.0
            service._pulse(stopped, 100.0 + service.HUNG_S)
            with pytest.raises(BlockingIOError):
                manager.recv(100)
            service._pulse(stopped, 100.0 + service.HUNG_S - 1)
            assert manager.recv(100) == b"WATCHDOG=1"


def test_a_signal_at_any_moment_of_the_start_ends_it(site: Site, tmp_path: Path) -> None:
    for _ in range(5):
        milter = site.start(unix_policy(site, tmp_path / "milter.sock"))
        wait_until(lambda: (tmp_path / "milter.sock.lock").exists(), "the lock")
        milter.process.send_signal(signal.SIGTERM)
        assert milter.process.wait(30) == 0
        assert not (tmp_path / "milter.sock").exists()
        (tmp_path / "milter.sock.lock").unlink()


def test_while_earlier_counts_are_read_an_mta_waits_and_nobody_gets_a_second_limit(site: Site, tmp_path: Path) -> None:
    """The socket is there from the beginning, so no MTA takes the milter for absent."""
    (site.folder / "state").mkdir(mode=0o700)
    memory, now_s = Segments(site.folder / "state", boot_id()), time.monotonic()
    for n in range(200_000):
        memory.write([Record(f"2001:db8:{n >> 16:x}:{n & 65535:x}::/64", Pool.STRANGER, (0, 1, 1, 0), now_s)])
    memory.write([Record("192.0.2.1", Pool.STRANGER, (0, 1, 1, 0), now_s)] * 2)
    os.close(memory._lock)
    path = tmp_path / "milter.sock"
    milter = site.start(f'state = "{site.folder}/state"\n{unix_policy(site, path)}[limits]\nmessages = 2\n')
    wait_until(path.exists, "the socket")
    with socket.socket(socket.AF_UNIX) as used, socket.socket(socket.AF_UNIX) as fresh:
        for mta in (used, fresh):
            mta.settimeout(120)
            mta.connect(str(path))
        assert "event=remembered" not in milter.log, "it is still reading"
        assert [a[:4] for a in ask(used, OFFER + client("192.0.2.1") + mail(), 3)[1:]] == ["c", "y451"]
        assert "event=remembered" in milter.log
        assert ask(fresh, OFFER + client("192.0.2.2") + mail(), 3)[1:] == ["c", "c"]
