"""The URL of an exchange: every mistake says what would be right."""

import pytest

from egressguard.core.exchange_url import ServerPlace, SqlitePlace, parse, url_mistakes

SECURE = "valkeys://router@192.0.2.5?password=/etc/p&ca=credential:ca"


@pytest.mark.parametrize(("url", "place"), [
    ("sqlite:/x/y.db", SqlitePlace("/x/y.db")),
    ("valkey://127.0.0.1:7000", ServerPlace((("127.0.0.1", 7000),), False)),
    ("redis://[2001:db8::5]:7000,192.0.2.5", ServerPlace((("2001:db8::5", 7000), ("192.0.2.5", 6379)), False)),
    (SECURE + "&name=exchange.example", ServerPlace((("192.0.2.5", 6379),), True, "router", "/etc/p", "credential:ca",
                                                    "exchange.example")),
])
def test_a_url(url: str, place: object) -> None:
    assert parse(url) == place


@pytest.mark.parametrize(("url", "why"), [
    ("", "write sqlite:"), ("sqlite:relative", "write sqlite:"), ("http://192.0.2.1", "write sqlite:"),
    ("valkey://exchange.example", "DNS"), ("valkey://", "no address"), ("valkey://192.0.2.1:99999", "no address"),
    ("valkeys://192.0.2.1", "ca is missing"), ("valkey://192.0.2.1?ca=/x", "belong to TLS"),
    ("valkey://u:secret@192.0.2.1", "no exchange needs"), ("valkey://192.0.2.1/3", "no exchange needs"),
    ("valkey://192.0.2.1?password=relative", "absolute path"), ("valkey://192.0.2.1?timeout=3", "unknown"),
    ("valkeys://192.0.2.1?ca=credential:a/b", "absolute path"),
])
def test_a_mistake(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)


def test_what_comes_over_a_network_must_be_signed() -> None:
    assert [m.key for m in url_mistakes(SECURE, "")] == ["exchange_key"]
    assert not list(url_mistakes(SECURE, "/etc/key"))
    assert not list(url_mistakes("sqlite:/x", ""))
    assert [m.key for m in url_mistakes("sqlite:/x", "relative")] == ["exchange_key"]
