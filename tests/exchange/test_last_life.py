"""Which life of the budgets' server a relay knew outlives it, whatever became of the file."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egressguard.core.exchange_url import ServerPlace
from egressguard_milter.budgets import LIFE, Budgets
from egressguard_milter.last_life import FILE, LATEST, LifeFile
from lab.namespaces import wait_until
from lab.valkey import Server
from tests.exchanges import key_file
from tests.relay.running import COMMAND


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    assert LifeFile(tmp_path).found == ""
    LifeFile(tmp_path).keep("0123abcd-ef01 1700000000000")
    assert LifeFile(tmp_path).found == "0123abcd-ef01 1700000000000"


def folder_in_its_place(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("damage", [folder_in_its_place, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"\xff\0" * 50),
                                    lambda p: p.write_text("word-process 17 and more"), lambda p: p.write_text("w-p " + "9" * 400)])
def test_what_cannot_be_read_was_later_than_any_other(tmp_path: Path, damage: Any) -> None:
    damage(tmp_path / FILE)
    assert LifeFile(tmp_path).found == LATEST


def test_a_life_that_cannot_be_kept_is_said_and_known_all_the_same(
        tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    place = ServerPlace((("127.0.0.1", server.port),), False)
    budgets = Budgets(place, "relay", 1, last=LifeFile(tmp_path / "nowhere"))
    budgets.tend(time.monotonic())
    assert "event=life_not_kept" in caplog.text
    assert budgets.life == server.command("GET", LIFE).decode()
    budgets.close()


@contextmanager
def milter(config: Path) -> Iterator[None]:
    """One that runs, until it is killed."""
    with subprocess.Popen([COMMAND, "run", "--config", config], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert any("event=started" in line for line in process.stderr)
            yield
        finally:
            process.kill()


def believes_a_life_of_the_past(server: Server, folder: Path) -> bool:
    """Whether a milter that was killed goes on in a life that is older than the one it knew."""
    config, kept = folder / "policy.toml", folder / "state" / FILE
    config.write_text(f'socket = "unix:{folder}/milter.sock"\nstate = "{folder}/state"\nmetrics = ""\nrelays = 2\n'
                      f'exchange = "{server.url}"\nexchange_key = "{key_file(folder)}"\n')
    with milter(config):
        wait_until(kept.exists, "the life that it knows")
    known = kept.read_text()
    assert server.command("GET", LIFE).decode() == known
    past = f"past-{server.command('INFO', 'server')['run_id']} {int(known.split()[1]) - 1000}"
    server.command("SET", LIFE, past)
    with milter(config):
        wait_until(lambda: kept.read_text() != known, "another life")
    return bool(server.command("GET", LIFE).decode() == past)


def test_a_milter_that_was_killed_does_not_believe_a_life_of_the_past(server: Server, tmp_path: Path) -> None:
    assert not believes_a_life_of_the_past(server, tmp_path)
