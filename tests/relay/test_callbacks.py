"""What libmilter is told: no content, and a temporary failure for whatever goes wrong."""

import logging
from typing import Any

import Milter
import pytest

from egressguard.core.hosts import Host
from egressguard.core.verdict import State
from egressguard_milter.callbacks import Connection, Deferrals
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.policy import Base, Policy


class Context:
    """libmilter's side of one connection, as text."""

    def __init__(self) -> None:
        self.replies: list[str] = []

    def setpriv(self, _: Any) -> None:
        pass

    def setreply(self, *words: str) -> None:
        self.replies.append(" ".join(words))


def connection(limits: Any) -> tuple[Connection, Context]:
    made, context = Connection(limits, Deferrals()), Context()
    made._setctx(context)
    return made, context


@pytest.fixture
def limits() -> Limits:
    return Limits(Policy(limits=Base(messages=1)), Ledger(600.0, 10), lambda _h, _t: State.CLEAN)


def test_neither_headers_nor_body_cross_the_wire() -> None:
    all_steps = 0x1FFFFF
    options = [Milter.CURR_ACTS, all_steps, 0, 0]
    connection(None)[0].negotiate(options)
    unwanted = (Milter.P_NOBODY | Milter.P_NOHDRS | Milter.P_NOEOH | Milter.P_NOUNKNOWN
                | Milter.P_NOHELO | Milter.P_NORCPT | Milter.P_NODATA)
    assert options[1] & unwanted == unwanted
    assert not options[1] & (Milter.P_NOCONNECT | Milter.P_NOMAIL)


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


class Broken:
    """Limits with a bug."""

    def check(self, host: Host, now_s: float) -> None:
        raise RuntimeError(f"a bug\nwith a line for {host} at {now_s}")


def test_an_exception_is_logged_and_becomes_a_temporary_failure(
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made, _ = connection(Broken())
    assert made.connect("name", 2, ("192.0.2.1", 25)) == Milter.CONTINUE
    assert made.envfrom("<a@example.org>") == Milter.TEMPFAIL
    assert caplog.records[0].getMessage() == "event=callback_failed callback=envfrom"
