"""History: what is committed stays, what belongs to another life of the table is not mixed in."""

import sqlite3
from pathlib import Path

import pytest

from egressguard.core.attempts import Baseline, Sample, Seen
from egressguard.core.errors import DatabaseError
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Verdict
from egressguard.database import Database, changed

WEB = Host("198.51.100.12")
SAMPLE = Sample(5.0, attempts={WEB: 3}, destinations={(WEB, "203.0.113.1"): 3})
VERDICT = Verdict(WEB, State.SUSPECT, 3.5, 4.0, 5.0, 3, "because")


def test_a_round_comes_back_whole(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    database.record("life", SAMPLE, [VERDICT], [])
    assert database.baseline("life") == Baseline({WEB: Seen(3, 5.0)}, {(WEB, "203.0.113.1"): Seen(3, 5.0)})
    assert database.verdicts(9.0) == {WEB: VERDICT}
    assert database.baseline("another life") == Baseline()
    database.close()


def test_another_life_of_the_table_starts_from_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    database.record("life", SAMPLE, [], [])
    database.record("next", None, [], [])
    assert database.baseline("next") == Baseline()
    database.close()


def test_a_verdict_of_another_boot_counts_from_now(tmp_path: Path) -> None:
    first = Database(tmp_path / "d.db", "boot")
    first.record("life", SAMPLE, [VERDICT], [])
    first.close()
    second = Database(tmp_path / "d.db", "next boot")
    assert second.verdicts(1.0)[WEB] == Verdict(WEB, State.SUSPECT, 3.5, 1.0, 1.0, 3, "because")
    second.close()


def test_a_failed_round_leaves_nothing_behind(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    broken = Verdict(WEB, State.SUSPECT, 3.5, 4.0, 5.0, 3, object())  # type: ignore[arg-type]
    with pytest.raises(DatabaseError):
        database.record("life", SAMPLE, [broken], [])
    assert database.baseline("life") == Baseline()
    database.close()


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "d.db") as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(DatabaseError, match="later egressguard"):
        Database(tmp_path / "d.db", "boot")


def test_reading_only_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="unable to open"):
        Database(tmp_path / "d.db", "boot", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_only_what_moved_is_written() -> None:
    baseline = Baseline({WEB: Seen(3, 5.0)}, {(WEB, "203.0.113.1"): Seen(2, 5.0)})
    assert changed(baseline, SAMPLE) == Sample(5.0, attempts={}, destinations={(WEB, "203.0.113.1"): 3})
