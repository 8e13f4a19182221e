"""What only an exchange in a file can do wrong."""

import sqlite3
from pathlib import Path

import pytest

from egressguard.core.errors import ExchangeError
from egressguard.exchange import open_exchange, sqlite
from egressguard.exchange.sqlite import SqliteStore


def test_a_later_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "exchange.db"
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    before = path.read_bytes()
    with pytest.raises(ExchangeError, match="later egressguard"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_an_exchange_error(tmp_path: Path) -> None:
    (tmp_path / "exchange.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ExchangeError, match=r"exchange\.db"):
        SqliteStore(tmp_path / "exchange.db")


@pytest.mark.parametrize("url", ["", "sqlite:", "sqlite:relative.db", "/tmp/x"])
def test_an_unknown_url_says_what_would_be_right(url: str) -> None:
    with pytest.raises(ExchangeError, match="sqlite:/absolute/path"):
        open_exchange(url)


def test_the_packages_folder_is_made_and_any_other_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PACKAGED", tmp_path / "packaged")
    open_exchange(f"sqlite:{tmp_path}/packaged/exchange/exchange.db").close()
    for mistyped in ("nowhere/exchange.db", "packaged-too/x/exchange.db"):
        with pytest.raises(ExchangeError, match=f"there is no folder {tmp_path}/{Path(mistyped).parent}"):
            open_exchange(f"sqlite:{tmp_path}/{mistyped}")
    assert [path.name for path in tmp_path.iterdir()] == ["packaged"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ExchangeError, match="exchange"):
        open_exchange(f"sqlite:{tmp_path}/file/exchange.db")


def test_reading_only_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="unable to open"):
        open_exchange(f"sqlite:{tmp_path}/exchange.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "exchange.db"
    exchange = SqliteStore(path)
    path.unlink()
    SqliteStore(path).close()
    with pytest.raises(ExchangeError, match="replaced"):
        exchange.changed()
    path.unlink()
    with pytest.raises(ExchangeError):
        exchange.changed()
    exchange.close()
