"""Bad configuration: every mistake at once, each with file, key and what would be right."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.config import read_site
from egressguard.core.errors import ConfigError
from egressguard.core.settings import Settings

GOOD = """
[[inside]]
interfaces = ["dmz"]
networks = ["192.0.2.0/26", "2001:db8:0:a::/64"]
[[inside]]
interfaces = ["web"]
networks = ["198.51.100.0/24"]
[[sender]]
name = "relay"
addresses = ["192.0.2.10", "2001:db8:0:a::2"]
[[host]]
name = "web1"
addresses = ["198.51.100.11"]
"""


def read(folder: Path, text: str) -> Settings:
    path = folder / "egressguard.toml"
    path.write_text(text)
    return read_site(path).settings


def complaints(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert all(line.startswith(f"{folder}/egressguard.toml: ") for line in str(caught.value).splitlines())
    return str(caught.value)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    assert [str(a) for a in settings.sender[0].addresses] == ["192.0.2.10", "2001:db8:0:a::2"]
    assert settings.mode == "enforce"


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("interfaces = [\"dmz\"]", "interface = [\"dmz\"]", "inside.0.interface: unknown key; did you mean 'interfaces'?"),
    ("[[sender]]", "[[allowed]]", "allowed: unknown key; known keys here: inside, router, mode"),
    ("192.0.2.10\"", "192.0.2.256\"", "sender.0.addresses.0: \"192.0.2.256\": Octet 256 (> 255) not permitted"),
    ("2001:db8:0:a::2", "2001:db8:::2", "sender.0.addresses.1: \"2001:db8:::2\""),
    ("a::2\"", "a::2%x }; flush ruleset; #\"", "sender.0.addresses: '2001:db8:0:a::2%x }; flush ruleset; #' has a zone"),
    ("192.0.2.10\"", "relay.example\"", "write an address such as 192.0.2.10 or 2001:db8::10"),
    ("192.0.2.10\"", "203.0.113.9\"", "sender.0.addresses: 203.0.113.9 lies behind no inside interface "
                                      "(inside networks: 192.0.2.0/26"),
    ("198.51.100.11", "203.0.113.9", "host.0.addresses: 203.0.113.9 lies behind no inside interface"),
    ("198.51.100.11", "192.0.2.10", "host.0.addresses: 192.0.2.10 belongs to sender.0 already"),
    ("198.51.100.0/24", "198.51.100.1/24", "inside.1.networks.0: \"198.51.100.1/24\": 198.51.100.1/24 has host bits set"),
    ("198.51.100.0/24", "192.0.2.0/24", "inside.1.networks: 192.0.2.0/24 overlaps 192.0.2.0/26 of inside.0"),
    ("[[inside]]", "[canary]\nperiod_s = 1.0\n[[inside]]", "canary.period_s: 1.0 is out of range"),
    ("[[inside]]", "[canary]\naddresses = [\"198.51.100.254\"]\n[[inside]]", "canary.addresses: 198.51.100.254 lies in 198.51.100.0/24"),
    ("[[inside]]", "[canary]\ndestinations = [\"2001:db8:0:a::9\"]\n[[inside]]", "canary.destinations: 2001:db8:0:a::9 lies in"),
    ("[[inside]]", "[canary]\naddresses = []\n[[inside]]", "canary.addresses: needs one address, or one of each family"),
    ("\"dmz\"", "\"d m z\"", "inside.0.interfaces: 'd m z' is no interface name"),
    ("\"dmz\"", "\"dmz\\\" ; flush ruleset\"", "is no interface name"),
    ("\"dmz\"", "\"an-interface-name\"", "is no interface name: 1 to 15"),
    ("[\"dmz\"]", "[]", "inside.0.interfaces: is empty"),
    ("name = \"web1\"", "", "host.0.name: is missing"),
    ("[[inside]]", "period_s = \"1\"\n[[inside]]", "period_s: \"1\": should be a valid number"),
    ("\n[[inside]]\ninterfaces = [\"dmz\"]", "\nperiod_s = nan\n[[inside]]\ninterfaces = [\"dmz\"]",
     "period_s: nan is out of range: 0.05 to 60"),
    ("\n[[inside]]\ninterfaces = [\"dmz\"]", "\nmode = \"off\"\n[[inside]]\ninterfaces = [\"dmz\"]",
     "mode: \"off\": should be 'observe' or 'enforce'"),
    ("[[host]]", "[detection]\nfalse_alarm = 0.4\n[[host]]", "detection.false_alarm: is above suspect_false_alarm"),
    ("[[host]]", "[detection\n[[host]]", "is not TOML"),
])
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in complaints(tmp_path, GOOD.replace(old, new, 1))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = complaints(tmp_path, GOOD.replace("192.0.2.10", "203.0.113.9").replace("198.51.100.11", "203.0.113.8"))
    assert "203.0.113.9" in text
    assert "203.0.113.8" in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        read_site(tmp_path / "nowhere.toml")


@given(st.text(), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_damaged_files_are_config_errors_or_good(tmp_path_factory: pytest.TempPathFactory, inserted: str,
                                                 at: int, removed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_text(GOOD[:at] + inserted + GOOD[at + removed:], encoding="utf-8", errors="surrogateescape")
    try:
        settings = read_site(path).settings
    except ConfigError as error:
        assert error.mistakes
    else:
        assert all(name.isascii() for inside in settings.inside for name in inside.interfaces)
