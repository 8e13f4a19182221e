"""One real server for all tests here, emptied before each; no root needed, it listens on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.exchange import Exchange, line
from egressguard_milter import budgets
from lab.valkey import Server
from tests.exchanges import KINDS, Open, opener


@pytest.fixture(scope="session")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.command("FLUSHALL")
    return running


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared machine may hesitate for longer than a call's deadline; that is not what these tests are about."""
    monkeypatch.setattr(line, "CALL_S", 2.0)
    monkeypatch.setattr(budgets, "SLOW_S", 2.0)


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens further connections to one and the same exchange, of each kind in turn."""
    opened: list[Exchange] = []
    open_one = opener(request.param, tmp_path,
                      request.getfixturevalue("server") if request.param == "valkey" else None)

    def one() -> Exchange:
        opened.append(open_one())
        return opened[-1]

    yield one
    for exchange in opened:
        exchange.close()
