"""Every kind of exchange, for the contract and for the faults: in memory, in a file, on the real server."""

from collections.abc import Callable
from pathlib import Path

from egressguard.core.documents import Bulletin, Client, Origin, Report
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard.exchange import Exchange, open_exchange
from egressguard.exchange.setup import new_key
from lab.valkey import Server
from tests.fakes import fake_exchange

WEB = Host("198.51.100.12")
KINDS = ("fake", "sqlite", "valkey")
Open = Callable[[], Exchange]


def bulletin(name: str, sequence: int, state: State = State.SUSPECT, epoch: int = 1) -> Bulletin:
    return Bulletin(Origin(name, epoch, sequence), 30.0, {WEB: state})


def report(name: str, sequence: int, limit: int = 4) -> Report:
    return Report(Origin(name, 1, sequence), 30.0, {WEB: Client(Tier.TIGHTENED, limit, 3, 99)})


def key_file(folder: Path, *lines: str) -> str:
    """A key file with these lines, or with a fresh key."""
    path = folder / "exchange.key"
    path.write_text("\n".join(lines or (new_key(),)) + "\n")
    path.chmod(0o640)
    return str(path)


def opener(kind: str, folder: Path, server: Server | None) -> Open:
    """Opens connections to one and the same exchange."""
    place: dict[tuple[str, str], str] = {}
    if kind == "fake":
        return lambda: fake_exchange(place)
    key = key_file(folder)
    if kind == "sqlite":
        return lambda: open_exchange(f"sqlite:{folder}/exchange.db", key)
    assert server is not None
    url = server.url
    return lambda: open_exchange(url, key)
