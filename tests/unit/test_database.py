"""History: what is committed stays, what belongs to another life of the table is not mixed in."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.core.attempts import Baseline, Counters
from egressguard.core.errors import DatabaseError
from egressguard.core.hosts import Host
from egressguard.core.memory import Memory, freeze, thaw
from egressguard.core.orders import Order
from egressguard.core.verdict import Cause, State, Verdict
from egressguard.database import MIGRATIONS, Database, changed, open_database

WEB = Host("198.51.100.12")
COUNTERS = Baseline(Counters({WEB: 3}, 5.0), Counters(), Counters({(WEB, "203.0.113.1"): 3}, 5.0))
NOTHING = Baseline()
VERDICT = Verdict(WEB, State.SUSPECT, 3.5, 4.0, 5.0, 3, "because", Cause.SPAMBOT, 1.5, 65.0,
                  memory=thaw(freeze(Memory(gained=3.5, application=0.5, visits=(1, 0, 2, 0)), 5.0), 5.0))


def test_a_round_comes_back_whole(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    database.record("life", COUNTERS, [VERDICT], [])
    assert database.baseline("life") == COUNTERS
    assert database.verdicts(9.0) == {WEB: VERDICT}
    assert database.baseline("another life") == Baseline()
    database.close()


def test_another_life_of_the_table_starts_from_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    database.record("life", COUNTERS, [], [])
    database.record("next", NOTHING, [], [])
    assert database.baseline("next") == Baseline()
    database.close()


def test_a_verdict_of_another_boot_counts_from_now(tmp_path: Path) -> None:
    first = Database(tmp_path / "d.db", "boot")
    first.record("life", COUNTERS, [VERDICT], [])
    first.close()
    second = Database(tmp_path / "d.db", "next boot")
    assert second.verdicts(1.0)[WEB] == VERDICT._replace(
        since_s=1.0, at_s=1.0, until_s=61.0, memory=thaw(freeze(VERDICT.memory, 5.0), 1.0))
    second.close()


def test_a_failed_round_leaves_nothing_behind(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    broken = Verdict(WEB, State.SUSPECT, 3.5, 4.0, 5.0, 3, object())  # type: ignore[arg-type]
    with pytest.raises(DatabaseError):
        database.record("life", COUNTERS, [broken], [])
    assert database.baseline("life") == Baseline()
    database.close()


def test_a_file_of_the_first_schema_is_brought_up_to_date_and_keeps_what_it_holds(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "d.db") as first:
        first.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1; "
                            "INSERT INTO meta VALUES ('incarnation', 'life');")
    first.close()
    with pytest.raises(DatabaseError, match="earlier egressguard"):
        Database(tmp_path / "d.db", "boot", read_only=True)
    both = [Database(tmp_path / "d.db", "boot") for _ in range(2)]
    assert [database.meta("incarnation") for database in both] == ["life", "life"]
    for database in both:
        database.record("life", COUNTERS, [VERDICT], [])
        database.close()
    Database(tmp_path / "d.db", "boot", read_only=True).close()


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


def test_the_folder_is_made(tmp_path: Path) -> None:
    Database(tmp_path / "a/b/d.db", "boot").close()
    assert (tmp_path / "a/b/d.db").exists()


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_without_a_usable_file_history_is_in_memory_and_the_reason_is_known(
        tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "d.db"
    path.mkdir() if content is None else path.write_bytes(content)
    database, fault = open_database(path, "boot")
    database.record("life", COUNTERS, [VERDICT], [])
    assert database.verdicts(9.0) == {WEB: VERDICT}
    assert str(path) in fault
    assert "in memory" in fault
    database.close()
    assert content is None or path.read_bytes() == content


def test_only_what_moved_is_written() -> None:
    saved = Baseline(Counters({WEB: 3}, 4.0), Counters(), Counters({(WEB, "203.0.113.1"): 2}, 4.0))
    assert changed(saved, COUNTERS) == Baseline(
        Counters({}, 5.0), Counters(), Counters({(WEB, "203.0.113.1"): 3}, 5.0))


ORDER = Order("exception", "root", "a migration", 100.0, WEB, "203.0.113.1", 1)


def test_an_order_stands_until_its_time_is_over(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    database.give_order(ORDER, 1000.0)
    assert database.orders(1040.0) == [replace(ORDER, remaining_s=60.0)]
    database.keep_orders(1040.0)
    assert database.orders(1050.0) == [replace(ORDER, remaining_s=50.0)]
    assert database.orders(1100.0) == []
    database.keep_orders(1101.0)
    assert [(e.kind, "its time is over" in (e.why or "")) for e in database.history(WEB)] == [("exception", False), ("end", True)]
    database.keep_orders(1102.0)
    assert len(database.history(WEB)) == 2
    database.close()


def test_an_order_goes_on_after_a_reboot_with_what_was_left(tmp_path: Path) -> None:
    first = Database(tmp_path / "d.db", "boot")
    first.give_order(ORDER, 1000.0)
    first.keep_orders(1040.0)
    first.close()
    second = Database(tmp_path / "d.db", "next boot")
    assert second.orders(3.0) == [replace(ORDER, remaining_s=60.0)]
    second.close()


def test_an_order_can_be_ended(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db", "boot")
    database.give_order(ORDER, 1000.0)
    database.end_orders([1], WEB, "done", 1001.0)
    assert database.orders(1001.0) == []
    assert [e.kind for e in database.history(WEB)] == ["exception", "release"]
    database.close()
