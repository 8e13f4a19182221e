"""Bad configuration: every mistake at once, each with file, key and what would be right."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.config import read_site
from egressguard.core.errors import ConfigError, Mistake
from egressguard.core.settings import Settings
from tests.broken_parts import broken_values, misspelt_keys, toml

Damage = Callable[[dict[str, Any]], Iterator[tuple[str, dict[str, Any]]]]

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


def mistakes(folder: Path, text: str) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return caught.value.mistakes


def test_a_good_file_is_read(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    assert [str(a) for a in settings.sender[0].addresses] == ["192.0.2.10", "2001:db8:0:a::2"]
    assert settings.mode == "enforce"


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("interfaces = [\"dmz\"]", "interface = [\"dmz\"]", "inside.0.interface: unknown key; did you mean 'interfaces'?"),
    ("[[sender]]", "[[allowed]]", "allowed: unknown key; known keys here: inside, router, mode"),
    ("interfaces = [\"dmz\"]", "interfaces = [\"d\\u0000mz\"]", "inside.0.interfaces.0: 'd\\x00mz' has a NUL character: remove it"),
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
    ("\"dmz\"", "\"lo\"", "inside.0.interfaces: 'lo' is this machine itself"),
    ("\"192.0.2.0/26\"", "\"0.0.0.0/1\"", "inside.0.networks: 0.0.0.0/1 is as wide as the Internet"),
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


EVERYTHING = GOOD.replace("[[host]]", """mac = "00:00:5e:00:53:0a"
ports = ["vnet1"]
[[host]]""").replace("[[inside]]", """
exchange = "valkeys://router@192.0.2.20?password=/etc/pw&ca=/etc/ca"
exchange_key = "/etc/key"
ports = [25]
[redirect]
relays = ["192.0.2.10"]
[last_line]
interfaces = ["wan"]
[canary]
addresses = ["203.0.113.250"]
[detection]
false_alarm = 0.001
suspect_false_alarm = 0.01
hold_false_alarm = 0.0001
new_destination_if_spambot = 0.1
new_destination_if_benign = 0.05
[own]
users = ["root", "daemon"]
relays = ["192.0.2.10"]
[notify]
mail_to = ["noc@example.org"]
mail_from = "egressguard@example.org"
mail_server = "192.0.2.20"
command = ["/bin/true", "one"]
[[bridge]]
name = "br0"
ports = ["vnet*"]
networks = ["203.0.113.0/28"]
[[group]]
name = "lab"
networks = ["198.51.100.0/25"]
answer = "redirect"
also_block = [465]
[[inside]]""", 1) + """[[host]]
name = "vm1"
addresses = ["203.0.113.2"]
"""


@pytest.mark.parametrize("damage", [broken_values, misspelt_keys])
def test_a_part_that_fails_has_no_consequences(tmp_path: Path, damage: Damage) -> None:
    """Whatever is broken: what is said is about that place, and about nothing that merely depends on it."""
    good = tomllib.loads(EVERYTHING)
    assert read(tmp_path, toml(good))
    broken = list(damage(good))
    assert len(broken) > 40
    for key, table in broken:
        assert {m.key for m in mistakes(tmp_path, toml(table))} == {key}, key


def test_the_mistakes_of_every_stage_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = mistakes(tmp_path, """
mode = "off"
metrics = "somewhere"
prots = [25]
period_s = 0.001
[own]
users = ["nobody-of-that-name"]
relays = ["192.0.2.300"]
guard = "yes"
[[inside]]
interfaces = ["d m z"]
networks = ["192.0.2.0/26"]
[[inside]]
interfaces = []
networks = ["192.0.2.32/27"]
[[host]]
addresses = ["192.0.2.7"]
[[host]]
name = "\\n"
addresses = ["203.0.113.9", "nowhere"]
[[host]]
name = "web3"
addresses = ["192.0.2.7"]
mac = "unknown"
""")
    assert [m.key for m in found] == [
        "mode", "metrics", "prots", "period_s", "own.users", "own.relays.0", "own.guard", "inside.0.interfaces",
        "inside.1.interfaces", "inside.1.networks", "host.0.name", "host.1.name", "host.1.addresses",
        "host.1.addresses.1", "host.2.addresses", "host.2.mac"]
    assert "belongs to host.0 already" in next(m.text for m in found if m.key == "host.2.addresses")


def test_a_host_is_not_called_an_outsider_when_its_network_is_what_cannot_be_read(tmp_path: Path) -> None:
    text = GOOD.replace("198.51.100.0/24", "198.51.100.0/42").replace('"dmz"', '"d m z"')
    assert [m.key for m in mistakes(tmp_path, text)] == ["inside.0.interfaces", "inside.1.networks.0"]


def test_an_unknown_key_is_no_excuse_for_a_value_that_stands_there(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "ports = [26]\nprots = [25]\n" + GOOD)
    assert [m.key for m in found] == ["ports", "prots"]


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
