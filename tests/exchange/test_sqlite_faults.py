"""Files that are full, damaged or of a later version: the rules stand, it is said, and it heals by itself."""

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.exchange import open_exchange
from tests.exchange.sites import BASE, LIFETIME_S, TIGHT, Everybody


@pytest.fixture
def small_disk(root: None, tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Takes what room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


def test_a_full_disk_means_base_limits_and_all_heals_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    """The exchange and the routers' histories are on it."""
    everybody = Everybody(small_disk, lambda: open_exchange(f"sqlite:{small_disk}/exchange.db"))
    everybody.compromise()
    everybody.until(TIGHT, LIFETIME_S)
    ballast = fill(small_disk)
    for n in range(20):
        everybody.routers[0].kernel.packet(everybody.host, f"203.0.113.{100 + n}")
        everybody.run(1.0)
    faults = everybody.routers[0].faults
    assert "full" in faults["database"], faults
    assert "full" in faults["exchange"], faults
    assert {relay.limit(everybody.now_s) for relay in everybody.relays} == {BASE}
    ballast.unlink()
    everybody.until(TIGHT, LIFETIME_S)
    kept = everybody.routers[0].database.verdicts(everybody.now_s)[everybody.host].attempts
    assert kept == 12 + 20, "what could not be written meanwhile is written now"
    everybody.close()


@pytest.mark.parametrize("harm", ["damaged", "later", "folder"])
def test_an_exchange_that_is_no_good_means_base_limits_and_heals_once_it_is_away(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "exchange.db"
    everybody = Everybody(tmp_path, lambda: open_exchange(f"sqlite:{path}"))
    everybody.compromise()
    everybody.until(TIGHT, LIFETIME_S)
    for file in tmp_path.glob("exchange.db*"):
        file.unlink()
    if harm == "damaged":
        path.write_bytes(b"\0garbage" * 1000)
    elif harm == "later":
        with sqlite3.connect(path) as later:
            later.execute("PRAGMA user_version = 99")
        later.close()
    else:
        path.mkdir()
    everybody.run(LIFETIME_S + 1)
    assert {relay.limit(everybody.now_s) for relay in everybody.relays} == {BASE}
    wanted = {"damaged": "not a database", "later": "later egressguard", "folder": "Is a directory|unable to open"}[harm]
    assert all(re.search(wanted, router.faults["exchange"]) for router in everybody.routers)
    if path.is_dir():
        path.rmdir()
    for file in tmp_path.glob("exchange.db*"):
        file.unlink()
    everybody.until(TIGHT, LIFETIME_S)
    everybody.close()
