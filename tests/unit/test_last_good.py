"""What the next boot begins with is written whole or not at all, and belongs to the daemon's user."""

import os
from pathlib import Path

import pytest

from egressguard.last_good import END, FILE, LastGood
from egressguard.ownership import make_beside


def test_it_is_the_text_with_an_end_that_a_shell_can_find(tmp_path: Path) -> None:
    LastGood(tmp_path).keep("table inet egressguard {}\n", "inet")
    lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
    assert lines[1:] == ["table inet egressguard {}\n", END]
    assert lines[0].startswith("#")


def test_what_cannot_be_written_is_a_fault_and_heals(tmp_path: Path) -> None:
    last_good = LastGood(tmp_path)
    (tmp_path / "last-good.new").mkdir()
    last_good.keep("one\n", "inet")
    assert "next boot begins with older rules" in last_good.fault
    (tmp_path / "last-good.new").rmdir()
    last_good.keep("one\n", "inet")
    assert last_good.fault == ""
    assert "one\n" in (tmp_path / FILE).read_text()


def test_a_write_that_ends_half_way_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last_good = LastGood(tmp_path)
    last_good.keep("one\n", "inet")
    before = (tmp_path / FILE).read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    last_good.keep("two\n", "inet")
    assert (tmp_path / FILE).read_text() == before
    assert "No space left" in last_good.fault


def test_what_root_makes_belongs_to_the_folders_owner(root: None, tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4712)
    LastGood(tmp_path).keep("one\n", "inet")
    make_beside(tmp_path / "egressguard.db")
    for name in (FILE, "egressguard.db"):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid) == (4711, 4712), name
