"""The contract of every exchange, on the fake and on SQLite; then what only SQLite can do wrong."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egressguard.core.documents import Bulletin, Client, Origin, Report
from egressguard.core.errors import ExchangeError
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard.exchange import Exchange, open_exchange
from egressguard.exchange.sqlite import SqliteExchange
from tests.fakes import FakeExchange

WEB = Host("198.51.100.12")
Open = Callable[[], Exchange]


def bulletin(name: str, sequence: int, state: State = State.SUSPECT) -> Bulletin:
    return Bulletin(Origin(name, "epoch", sequence), 30.0, {WEB: state})


@pytest.fixture(params=["fake", "sqlite"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens further connections to one and the same exchange."""
    opened: list[Exchange] = []
    place: dict[tuple[str, str], str] = {}

    def one() -> Exchange:
        opened.append(FakeExchange(place) if request.param == "fake" else SqliteExchange(tmp_path / "exchange.db"))
        return opened[-1]

    yield one
    for exchange in opened:
        exchange.close()


def test_what_a_router_leaves_a_relay_finds(connect: Open) -> None:
    router, relay = connect(), connect()
    router.publish(bulletin("r1", 1))
    router.publish(bulletin("r2", 7, State.COMPROMISED))
    assert relay.bulletins() == [bulletin("r1", 1), bulletin("r2", 7, State.COMPROMISED)]
    assert relay.reports() == []


def test_only_the_newest_document_of_an_origin_stays(connect: Open) -> None:
    router, relay = connect(), connect()
    for sequence in range(3):
        router.publish(bulletin("r1", sequence))
    assert relay.bulletins() == [bulletin("r1", 2)]


def test_a_report_comes_back_whole(connect: Open) -> None:
    relay, router = connect(), connect()
    report = Report(Origin("relay", "epoch", 1), 30.0, {WEB: Client(Tier.TIGHTENED, 4, 3, 99)})
    relay.report(report)
    assert router.reports() == [report]
    assert router.bulletins() == []


def test_changed_tells_of_others_writing_and_not_of_silence(connect: Open) -> None:
    router, relay = connect(), connect()
    relay.changed()
    assert not relay.changed()
    router.publish(bulletin("r1", 1))
    assert relay.changed()
    assert not relay.changed()
    relay.report(Report(Origin("relay", "epoch", 1), 30.0, {}))
    assert not relay.changed(), "one's own writing is no news"


def test_one_damaged_document_silences_nobody_else(tmp_path: Path) -> None:
    exchange = SqliteExchange(tmp_path / "exchange.db")
    exchange.publish(bulletin("r1", 1))
    with sqlite3.connect(tmp_path / "exchange.db") as forger:
        forger.execute("INSERT INTO document VALUES ('bulletin', 'r0', '{\"entries\": []}')")
    forger.close()
    assert exchange.bulletins() == [bulletin("r1", 1)]
    assert exchange.damaged == 1
    exchange.close()


def test_a_later_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "exchange.db"
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    before = path.read_bytes()
    with pytest.raises(ExchangeError, match="later egressguard"):
        SqliteExchange(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_an_exchange_error(tmp_path: Path) -> None:
    (tmp_path / "exchange.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ExchangeError, match=r"exchange\.db"):
        SqliteExchange(tmp_path / "exchange.db")


@pytest.mark.parametrize("url", ["", "sqlite:", "sqlite:relative.db", "valkey://192.0.2.1", "/tmp/x"])
def test_an_unknown_url_says_what_would_be_right(url: str) -> None:
    with pytest.raises(ExchangeError, match="write sqlite:/absolute/path"):
        open_exchange(url)


def test_the_folder_is_made_and_one_that_cannot_be_is_an_exchange_error(tmp_path: Path) -> None:
    open_exchange(f"sqlite:{tmp_path}/new/exchange.db").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(ExchangeError, match="exchange"):
        open_exchange(f"sqlite:{tmp_path}/file/exchange.db")


def test_reading_only_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="unable to open"):
        open_exchange(f"sqlite:{tmp_path}/exchange.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "exchange.db"
    exchange = SqliteExchange(path)
    path.unlink()
    SqliteExchange(path).close()
    with pytest.raises(ExchangeError, match="replaced"):
        exchange.changed()
    path.unlink()
    with pytest.raises(ExchangeError):
        exchange.changed()
    exchange.close()
