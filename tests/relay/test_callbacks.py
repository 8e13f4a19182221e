"""What libmilter is told: no content, and a temporary failure for whatever goes wrong."""

import logging
from typing import Any

import Milter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard_milter.callbacks import Connection, declared_bytes, envelope_address
from egressguard_milter.limits import Limits
from egressguard_milter.log import DecisionLog
from egressguard_milter.policy import Base, ClientRule, Policy
from egressguard_milter.tallies import Tallies
from tests.relay.parts import parts


class Context:
    """libmilter's side of one connection, as text."""

    def __init__(self) -> None:
        self.replies: list[str] = []
        self.macros: dict[str, str] = {}

    def setpriv(self, _: Any) -> None:
        pass

    def getsymval(self, name: str) -> str | None:
        return self.macros.get(name)

    def setreply(self, *words: str) -> None:
        self.replies.append(" ".join(words))


def connection(limits: Any) -> tuple[Connection, Context]:
    made, context = Connection(limits, Tallies(), DecisionLog()), Context()
    made._setctx(context)
    return made, context


@pytest.fixture
def limits() -> Limits:
    return parts(Policy(limits=Base(messages=1), client=(ClientRule(match=("trusted.example",), messages=5),))).limits


def test_neither_headers_nor_body_cross_the_wire() -> None:
    all_steps = 0x1FFFFF
    options = [Milter.CURR_ACTS, all_steps, 0, 0]
    connection(parts(Policy()).limits)[0].negotiate(options)
    unwanted = (Milter.P_NOBODY | Milter.P_NOHDRS | Milter.P_NOEOH | Milter.P_NOUNKNOWN
                | Milter.P_NOHELO)
    assert options[1] & unwanted == unwanted
    assert options[1] & Milter.P_RCPT_REJ
    assert not options[1] & (Milter.P_NOCONNECT | Milter.P_NOMAIL | Milter.P_NORCPT)
    assert not options[1] & Milter.P_NODATA, "an unanswered DATA costs each message 40 ms over TCP"


@pytest.mark.parametrize(("family", "address", "key"), [
    (2, ("192.0.2.1", 25), "192.0.2.1"), (10, ("2001:db8::1", 25, 0, 0), "2001:db8::/64"),
    (1, "/run/socket", "unaddressed"), (0, None, "unaddressed")])
def test_every_family_of_client_is_limited(limits: Limits, family: int, address: Any, key: str) -> None:
    for expected in (Milter.CONTINUE, Milter.TEMPFAIL):
        made, context = connection(limits)
        assert made.connect("name", family, address) == Milter.CONTINUE
        assert made.envfrom("<>") == expected
        assert made.eom() == Milter.CONTINUE
    assert context.replies[0].startswith(f"451 4.3.2 {key} is over its limit of 1 messages")


class Broken(Limits):
    """Limits with a bug."""

    def __init__(self) -> None:
        self.directory = parts(Policy()).limits.directory

    def open(self, *_: Any) -> Any:
        raise RuntimeError("a bug\nwith a line")


def test_an_exception_is_logged_and_becomes_a_temporary_failure(
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made, _ = connection(Broken())
    assert made.connect("name", 2, ("192.0.2.1", 25)) == Milter.TEMPFAIL
    assert caplog.records[0].getMessage() == "event=callback_failed callback=connect"


@pytest.mark.parametrize(("macros", "limit"), [
    ({"{client_resolve}": "OK"}, 5), ({"{client_resolve}": "FORGED"}, 1), ({"v": "Postfix 3.7.11"}, 5), ({}, 1),
    ({"{client_resolve}": "TEMP", "v": "Postfix 3.7.11"}, 1)])
def test_a_host_name_counts_only_if_the_mta_has_verified_it(
        limits: Limits, macros: dict[str, str], limit: int) -> None:
    made, context = connection(limits)
    context.macros = macros
    made.connect("www.trusted.example", 2, ("192.0.2.1", 25))
    for _ in range(limit):
        assert made.envfrom("<a@b.example>") == Milter.CONTINUE
        assert made.eom() == Milter.CONTINUE
    assert made.envfrom("<a@b.example>") == Milter.TEMPFAIL


@given(st.text(max_size=400))
def test_an_envelope_address_is_bounded_and_never_empty(text: str) -> None:
    assert 0 < len(envelope_address(text)) <= 320
    assert envelope_address("<>") == "<>"
    assert envelope_address("<A@B.example>") == "a@b.example"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_a_declared_size_is_a_number_whatever_is_written(words: list[str]) -> None:
    assert declared_bytes(tuple(words)) >= 0
    assert declared_bytes(("BODY=8BITMIME", "size=1234", *words)) == 1234
    assert declared_bytes(("SIZE=" + "9" * 400,)) <= 1 << 50
