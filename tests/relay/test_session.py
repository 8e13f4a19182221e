"""However a transaction ends, its reservation is settled or given back exactly once."""

import pytest

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.ledger import Ledger
from egressguard_milter.limits import Limits
from egressguard_milter.policy import Base, Policy, Rule, Tiers
from egressguard_milter.session import UNADDRESSED, Session, host_in

STATES: dict[Host, State] = {Host("192.0.2.66"): State.COMPROMISED, Host("192.0.2.77"): State.SUSPECT}
POLICY = Policy(limits=Base(messages=4, window_s=100.0),
                tiers=Tiers(suspect=Rule(0.5), compromised=Rule(tier="held")))


@pytest.fixture
def limits() -> Limits:
    return Limits(POLICY, Ledger(100.0, 100), lambda host, _: STATES.get(host, State.CLEAN))


def connected(limits: Limits, address: str | None) -> Session:
    session = Session(limits)
    session.connect(address)
    return session


def accepted(session: Session, attempts: int, now_s: float = 0.0) -> int:
    count = 0
    for _ in range(attempts):
        if session.mail(now_s).accepted:
            session.end_of_message(now_s)
            count += 1
    return count


def test_a_message_counts_from_mail_on_and_not_only_at_its_end(limits: Limits) -> None:
    sessions = [connected(limits, "192.0.2.1") for _ in range(5)]
    assert [s.mail(0).accepted for s in sessions] == [True] * 4 + [False]


@pytest.mark.parametrize("ending", ["abort", "close", "abort abort close", "mail", "connect"])
def test_a_transaction_without_a_message_costs_nothing(limits: Limits, ending: str) -> None:
    session = connected(limits, "192.0.2.1")
    for _ in range(10):
        assert session.mail(0).accepted
        for step in ending.split():
            if step == "mail":
                assert session.mail(0).accepted
                session.abort()
            elif step == "connect":
                session.connect("192.0.2.1")
            else:
                getattr(session, step)()
    assert accepted(session, 10) == 4


def test_an_abort_after_the_end_of_the_message_gives_nothing_back(limits: Limits) -> None:
    session = connected(limits, "192.0.2.1")
    assert accepted(session, 4) == 4
    session.abort()
    session.close()
    assert not session.mail(0).accepted


def test_an_end_of_message_that_was_never_reserved_counts_nothing(limits: Limits) -> None:
    session = connected(limits, "192.0.2.1")
    session.end_of_message(0)
    assert accepted(session, 10) == 4


def test_xclient_makes_the_connection_another_client(limits: Limits) -> None:
    session = connected(limits, "192.0.2.1")
    assert accepted(session, 10) == 4
    session.connect("192.0.2.2")
    assert accepted(session, 10) == 4


@pytest.mark.parametrize(("address", "key"), [
    ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("IPv6:2001:db8:0:0:0:0:0:1", "2001:db8::/64"),
    ("2001:db8::ffff", "2001:db8::/64"),
    ("127.0.0.1", "127.0.0.1"),
    (None, UNADDRESSED),
    ("/run/socket", UNADDRESSED),
    ("", UNADDRESSED),
])
def test_a_client_is_a_host_in_whatever_way_the_mta_writes_it(address: str | None, key: str) -> None:
    assert host_in(address) == key


def test_connections_without_an_address_share_one_limit_and_are_not_unlimited(limits: Limits) -> None:
    assert sum(accepted(connected(limits, None), 3) for _ in range(3)) == 4


def test_a_suspect_has_its_share_and_a_held_client_nothing(limits: Limits) -> None:
    assert accepted(connected(limits, "192.0.2.77"), 10) == 2
    decision = connected(limits, "192.0.2.66").mail(0)
    assert (decision.reason, decision.tier, decision.limit) == ("held", Tier.HELD, 0)
