"""The pulse: alive exactly while the lock is held, readable at any instant."""

import socket
from pathlib import Path

import pytest

from egressguard.core.errors import EgressguardError
from egressguard.heartbeat import FILE, Heartbeat, Pulse, read
from egressguard.service_manager import notify


def test_no_file_means_no_daemon(tmp_path: Path) -> None:
    assert read(tmp_path) == (False, None)


def test_alive_while_held_and_the_last_pulse_stays(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path)
    heartbeat.beat(Pulse(1, 10.0, 0.001, {"exchange": "a long fault " * 20}, {"relay": 9.0}))
    heartbeat.beat(Pulse(1, 11.0, 0.001))
    assert read(tmp_path) == (True, Pulse(1, 11.0, 0.001))
    heartbeat.close()
    assert read(tmp_path) == (False, Pulse(1, 11.0, 0.001))


def test_a_second_daemon_is_refused_with_a_reason(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path)
    with pytest.raises(EgressguardError, match="another egressguard runs"):
        Heartbeat(tmp_path)
    heartbeat.close()


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}', '["x"]', "null"])
def test_a_torn_file_is_no_pulse(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read(tmp_path) == (False, None)


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EgressguardError, match="cannot be written"):
        Heartbeat(tmp_path / "file" / "run")


def test_notify_reaches_the_service_manager_and_survives_its_absence(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    notify("READY=1")  # nobody listens: no exception
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
