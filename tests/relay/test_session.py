"""However a transaction ends, what it reserved is settled or given back exactly once."""

from collections.abc import Callable

import pytest

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.policy import Base, Policy, Rule, Tiers
from egressguard_milter.session import address_in
from egressguard_milter.terms import UNADDRESSED
from tests.relay.parts import Parts, mail, parts, send

STATES = {Host("192.0.2.66"): State.COMPROMISED, Host("192.0.2.77"): State.SUSPECT}
TIERS = Tiers(suspect=Rule(0.5), compromised=Rule(tier="held"))


@pytest.fixture
def relay() -> Parts:
    return parts(Policy(limits=Base(messages=4, window_s=100.0), tiers=TIERS), STATES)


def relay_with(**limits: int) -> Parts:
    return parts(Policy(limits=Base(window_s=100.0, **{"messages": None, **limits}), tiers=TIERS), STATES)  # type: ignore[arg-type]


def test_a_message_counts_from_mail_on_and_not_only_at_its_end(relay: Parts) -> None:
    assert [mail(relay.session()).accepted for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("ending", ["abort", "close", "abort abort close", "mail", "connect"])
def test_a_transaction_without_a_message_costs_nothing(relay: Parts, ending: str) -> None:
    for _ in range(10):
        session = relay.session()
        assert mail(session).accepted
        for step in ending.split():
            if step == "mail":
                assert mail(session).accepted
                session.abort(0)
            elif step == "connect":
                session.connect("192.0.2.1", "", 0)
            else:
                getattr(session, step)(0)
    assert send(relay.session(), 10) == 4


def test_an_abort_after_the_end_of_the_message_gives_nothing_back(relay: Parts) -> None:
    session = relay.session()
    assert send(session, 4) == 4
    session.abort(0)
    session.close(0)
    assert not mail(relay.session()).accepted


def test_an_end_of_message_that_was_never_reserved_counts_nothing(relay: Parts) -> None:
    session = relay.session()
    assert session.end_of_message(0) is None
    assert send(session, 10) == 4


def test_xclient_makes_the_connection_another_client(relay: Parts) -> None:
    session = relay.session()
    assert send(session, 10) == 4
    session.connect("192.0.2.2", "", 0)
    assert send(session, 10) == 4


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
def test_a_client_is_a_host_in_whatever_way_the_mta_writes_it(
        relay: Parts, address: str | None, key: str) -> None:
    assert relay.limits.allowance(address_in(address)).host == key


def test_connections_without_an_address_share_one_limit_and_are_not_unlimited(relay: Parts) -> None:
    assert sum(send(relay.session(None), 3) for _ in range(3)) == 4


def test_a_suspect_has_its_share_and_a_held_client_nothing(relay: Parts) -> None:
    assert send(relay.session("192.0.2.77"), 10) == 2
    decision = mail(relay.session("192.0.2.66"))
    assert (decision.limit, decision.tier, decision.verdict) == ("held", Tier.HELD, State.COMPROMISED)


def test_with_a_hold_queue_a_held_client_keeps_its_base_limit_and_no_more() -> None:
    relay = parts(Policy(limits=Base(messages=4), tiers=Tiers(compromised=Rule(tier="held", hold_queue=True))),
                  STATES)
    session = relay.session("192.0.2.66")
    assert mail(session).accepted
    assert session.hold_queue
    session.end_of_message(0)
    assert send(session, 10) == 3


def test_connections_are_counted_when_they_are_let_in_and_refused_ones_cost_nothing() -> None:
    relay = relay_with(connections=3)
    sessions = [relay.session() for _ in range(6)]
    assert [mail(s).accepted for s in sessions] == [True] * 3 + [False] * 3
    for session in sessions:
        session.close(50)
    assert mail(relay.session(now_s=99), 99).limit == "connections"
    assert mail(relay.session(now_s=100), 100).accepted


def test_a_connection_that_was_let_in_goes_on_whatever_its_siblings_do() -> None:
    relay = relay_with(connections=1, open_connections=1)
    first = relay.session()
    assert not any(mail(relay.session()).accepted for _ in range(20))
    assert send(first, 10) == 10


def test_open_connections_are_counted_until_they_close() -> None:
    relay = relay_with(open_connections=2)
    sessions = [relay.session() for _ in range(4)]
    assert [mail(s).accepted for s in sessions] == [True, True, False, False]
    for session in sessions[1:]:
        session.close(0)
        session.close(0)
    assert [mail(relay.session()).accepted for _ in range(2)] == [True, False]


def test_all_sessions_together_and_those_of_one_client_have_a_cap() -> None:
    relay = parts(Policy(max_sessions=3, max_sessions_per_client=2))
    a, b, c = relay.session(), relay.session(), relay.session()
    assert [mail(s).limit for s in (a, b, c)] == ["", "", "open_connections"]
    d, e = relay.session("192.0.2.2"), relay.session("192.0.2.3")
    assert [mail(s).limit for s in (d, e)] == ["", "sessions"]
    a.close(0)
    assert mail(relay.session("192.0.2.4")).accepted
    assert relay.limits.sessions == 3


def test_messages_per_connection_count_accepted_ones_and_begin_anew_with_the_next() -> None:
    relay = relay_with(messages_per_connection=2)
    session = relay.session()
    for _ in range(5):
        assert mail(session).accepted
        session.abort(0)
    assert send(session, 5) == 2
    assert mail(session).limit == "messages_per_connection"
    assert send(relay.session(), 5) == 2


def test_recipients_of_a_message_over_the_limit_are_deferred_and_the_others_go() -> None:
    relay = relay_with(recipients_per_message=2)
    session = relay.session()
    mail(session)
    answers = [session.recipient("outside.example", 0) for _ in range(4)]
    assert [d.limit for d in answers] == ["", "", "recipients_per_message", "recipients_per_message"]
    session.end_of_message(0)
    assert relay.tallies.of(Host("192.0.2.1")).recipients == 2


def test_recipients_over_time_stop_at_rcpt_and_then_at_mail_so_that_no_message_has_none() -> None:
    relay = relay_with(recipients=5)
    session = relay.session()
    for expected in ([True] * 3, [True, True, False]):
        assert mail(session).accepted
        assert [session.recipient("x.example", 0).accepted for _ in range(3)] == expected
        session.end_of_message(0)
    assert mail(session).limit == "recipients"


def test_of_parallel_messages_with_the_last_recipient_exactly_one_is_let_in() -> None:
    relay = relay_with(recipients=1)
    sessions = [relay.session() for _ in range(5)]
    assert [mail(s).limit for s in sessions] == [""] + ["recipients"] * 4
    sessions[0].abort(0)
    assert mail(sessions[1]).accepted
    assert sessions[1].recipient("x.example", 0).accepted


def test_recipients_that_were_reserved_and_not_sent_are_given_back() -> None:
    relay = relay_with(recipients=5)
    session = relay.session()
    for _ in range(10):
        assert mail(session).accepted
        assert all(session.recipient("x.example", 0).accepted for _ in range(5))
        session.abort(0)


def test_refused_recipients_stop_a_client_in_the_message_and_at_the_next_one() -> None:
    relay = relay_with(refused_recipients=3)
    session = relay.session()
    mail(session)
    for _ in range(3):
        session.recipient_refused(0)
    assert session.nothing_accepted
    assert session.recipient("x.example", 0).limit == "refused_recipients"
    assert mail(session).limit == "refused_recipients"
    assert mail(session, 100).accepted


@pytest.mark.parametrize("which", ["sender", "login"])
def test_a_sender_and_a_login_have_one_budget_over_all_clients(which: str) -> None:
    from egressguard_milter.policy import KeyRates, KeyRule
    rules = (KeyRule(messages=5, match=("big@inside.example",)),)
    relay = parts(Policy(limits=Base(messages=100), sender_limits=KeyRates(messages=2), sender=rules,
                         login_limits=KeyRates(messages=2), login=rules))
    one, two = relay.session("192.0.2.1"), relay.session("192.0.2.2")

    def sent(key: str) -> int:
        sender, login = (key, "") if which == "sender" else ("<>", key)
        return sum(send(s, 3, sender=sender, login=login) for s in (one, two))
    assert sent("a@inside.example") == 2
    assert sent("b@inside.example") == 2
    assert sent("big@inside.example") == 5


def test_a_message_that_one_payer_cannot_pay_costs_the_others_nothing() -> None:
    from egressguard_milter.policy import KeyRates
    relay = parts(Policy(limits=Base(messages=4), sender_limits=KeyRates(messages=1)))
    session = relay.session()
    assert send(session, 10, sender="a@inside.example") == 1
    assert send(session, 1, sender="b@inside.example") == 1
    assert sum(send(session, 1, sender=f"{n}@inside.example") for n in range(10)) == 2


def test_a_new_policy_counts_for_connections_that_are_open(relay: Parts) -> None:
    session = relay.session()
    assert send(session, 10) == 4
    relay.limits.use(Policy(limits=Base(messages=6, window_s=100.0)))
    assert send(session, 10) == 2


@pytest.mark.parametrize(("kind", "steps"), [
    ("connections", lambda relay: mail(relay.session())),
    ("messages", lambda relay: mail(relay.session())),
    ("open_connections", lambda relay: mail(relay.session())),
])
def test_every_limit_can_be_switched_off(kind: str, steps: Callable[[Parts], object]) -> None:
    from egressguard_milter.policy import Checks
    relay = parts(Policy(limits=Base(**{"messages": None, kind: 1}), checks=Checks(**{kind: False})))  # type: ignore[arg-type]
    assert all(mail(relay.session()).accepted for _ in range(5))
