"""`egressguard exchange` looks after any exchange; `exchange-setup` changes nothing that is there."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.cli import cli
from egressguard.core.signing import parse_keys
from egressguard.exchange import open_exchange
from lab.valkey import Server
from tests.exchanges import bulletin, key_file, report

CONFIG = '[[inside]]\ninterfaces = ["web"]\nnetworks = ["198.51.100.0/24"]\n'


@pytest.fixture(params=["sqlite", "valkey"])
def config(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Path:
    """A router's configuration, with an exchange in which three have left something."""
    url = f"sqlite:{tmp_path}/exchange.db" if request.param == "sqlite" else server.url
    key = key_file(tmp_path)
    exchange = open_exchange(url, key)
    exchange.publish(bulletin("r1", 1))
    for name in ("relay1", "relay2"):
        exchange.report(report(name, 1))
    exchange.close()
    path = tmp_path / "egressguard.toml"
    path.write_text(f'exchange = "{url}"\nexchange_key = "{key}"\n{CONFIG}')
    return path


def said(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def names(config: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(said("exchange", "names", "--json", "--config", config).output)
    return found


def test_a_decommissioned_relay_is_forgotten_by_name(config: Path) -> None:
    assert names(config) == {"bulletin": ["r1"], "report": ["relay1", "relay2"]}
    assert "relay1 is forgotten" in said("exchange", "forget", "relay1", "--config", config).output
    assert names(config) == {"bulletin": ["r1"], "report": ["relay2"]}
    assert "relay relay2" in said("exchange", "names", "--config", config).output


def test_an_unknown_name_is_refused_with_the_known_ones(config: Path) -> None:
    refused = said("exchange", "forget", "relay9", "--config", config)
    assert refused.exit_code != 0
    assert "known: r1, relay1, relay2" in str(refused.exception)
    assert names(config)["report"] == ["relay1", "relay2"]


def test_setup_never_overwrites_a_secret_and_makes_fresh_ones_each_time(tmp_path: Path) -> None:
    assert said("exchange-setup", "--into", tmp_path / "a").exit_code == 0
    before = {path.name: path.read_text() for path in (tmp_path / "a").iterdir()}
    assert "File exists" in str(said("exchange-setup", "--into", tmp_path / "a").exception)
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == before
    said("exchange-setup", "--into", tmp_path / "b")
    for name in ("exchange.key", "relay.password", "egressguard.acl"):
        assert (tmp_path / "b" / name).read_text() != before[name]
    assert before["relay.password"].strip() not in before["egressguard.acl"], "only a hash stands there"


def test_a_new_key_is_a_line_of_a_key_file() -> None:
    assert len(parse_keys(said("exchange-setup", "--new-key").output).keys) == 1
