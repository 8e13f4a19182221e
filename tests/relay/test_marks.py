"""What outlives a relay's process: nothing that was heard once is news again, and each start is newer than the one before."""

from pathlib import Path

import pytest

from egressguard_milter.marks import Marks


def test_every_start_is_a_newer_epoch_even_when_the_clock_went_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    for wall_s in (2e9, 1e9, 1.5e9):
        monkeypatch.setattr("time.time", lambda wall_s=wall_s: wall_s)
        marks = Marks(tmp_path, "boot")
        marks.keep({}, 0.0)
        epochs.append(marks.epoch)
    assert epochs == [2_000_000_000, 2_000_000_001, 2_000_000_002]
