"""What the next boot begins with is written whole or not at all, and belongs to the daemon's user."""

import os
import subprocess
import sys
from contextlib import suppress
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
    (tmp_path / FILE).mkdir()
    last_good.keep("one\n", "inet")
    assert "next boot begins with older rules" in last_good.fault
    last_good.heal()
    assert last_good.fault
    (tmp_path / FILE).rmdir()
    last_good.heal()
    assert last_good.fault == ""
    assert [left.name for left in tmp_path.iterdir()] == [FILE]
    assert "one\n" in (tmp_path / FILE).read_text()


WRITER = """
import pathlib, sys
from egressguard.last_good import LastGood
last_good, faults = LastGood(pathlib.Path(sys.argv[1])), []
for number in range(60):
    last_good.keep(f"{sys.argv[2]} {number}\\n" + "x" * 300_000 + "\\n", "inet")
    faults += [last_good.fault] if last_good.fault else []
print(faults)
"""


def test_two_writers_at_one_instant_hinder_nobody_and_a_reader_sees_whole_files(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name], stdout=subprocess.PIPE, text=True)
               for name in ("daemon", "command")]
    torn = reads = 0
    while any(writer.poll() is None for writer in writers):
        with suppress(FileNotFoundError):
            torn += not (tmp_path / FILE).read_text().endswith(END)
            reads += 1
    assert [writer.communicate()[0] for writer in writers] == ["[]\n"] * 2
    assert (torn, reads > 0) == (0, True)
    assert [left.name for left in tmp_path.iterdir()] == [FILE]


def test_what_a_killed_writer_has_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    old, young = tmp_path / "last-good.aaa.new", tmp_path / "last-good.bbb.new"
    for left in (old, young):
        left.write_text("half")
    os.utime(old, (0, 0))
    LastGood(tmp_path).keep("one\n", "inet")
    assert sorted(left.name for left in tmp_path.iterdir()) == [young.name, FILE]


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
