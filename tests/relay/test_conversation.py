"""What an MTA is answered: no content is asked for, and whatever goes wrong is a temporary failure."""

import logging
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard_milter import wire
from egressguard_milter.conversation import declared_bytes, envelope_address
from egressguard_milter.limits import Limits
from egressguard_milter.policy import Base, ClientRule, KeyRates, Policy
from tests.promises import promise
from tests.relay.fuzzing import fuzz
from tests.relay.mta import (
    ABORT,
    ANOTHER,
    END,
    OFFER,
    QUIT,
    answers,
    client,
    conversation,
    macros,
    mail,
    message,
    rcpt,
)
from tests.relay.parts import parts


@pytest.fixture
def limits() -> Limits:
    return parts(Policy(limits=Base(messages=1), client=(ClientRule(match=("trusted.example",), messages=5),))).limits


def test_neither_headers_nor_body_nor_anything_else_that_decides_nothing_crosses_the_wire() -> None:
    answer = conversation(parts(Policy()).limits, ()).hear(OFFER)
    version, actions, steps = wire.OFFER.unpack_from(answer, 5)
    # libmilter's names: NOHELO, NOBODY, NOHDRS, NOEOH, NOUNKNOWN, NODATA, and RCPT_REJ; QUARANTINE and SETSYMLIST.
    assert (version, actions, steps) == (6, 0x120, 0x2 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x800)


def test_the_macros_that_are_needed_are_asked_for_by_name() -> None:
    answer = conversation(parts(Policy()).limits, ()).hear(OFFER)
    assert answer[17:] == (b"\0\0\0\0v {client_resolve}\0" b"\0\0\0\x02{auth_authen} i\0"
                           b"\0\0\0\x03{rcpt_mailer} i\0" b"\0\0\0\x05i\0")


def test_an_old_mta_that_can_leave_nothing_out_is_answered_at_every_stage(limits: Limits) -> None:
    made = conversation(limits, ())
    assert made.hear(wire.packet(b"O", wire.OFFER.pack(2, 0x1F, 0x7F))) == wire.packet(b"O", wire.OFFER.pack(2, 0, 0x72))
    said = [client(), wire.packet(b"H", b"client.example\0"), mail(), rcpt(), wire.packet(b"T"),
            wire.packet(b"L", b"Subject\0x\0"), wire.packet(b"N"), wire.packet(b"B", b"text"), END]
    assert answers(made.hear(b"".join(said))) == ["c"] * len(said)


@pytest.mark.parametrize(("said", "key"), [
    (client("192.0.2.1"), "192.0.2.1"), (client("2001:db8::1"), "2001:db8::/64"), (client("IPv6:2001:db8::1"), "2001:db8::/64"),
    (wire.packet(b"C", b"name\0L\0\0/run/socket\0"), "unaddressed"), (wire.packet(b"C", b"name\0U"), "unaddressed"),
    (client("nonsense"), "unaddressed")])
def test_every_family_of_client_is_limited(limits: Limits, said: bytes, key: str) -> None:
    assert answers(conversation(limits, (OFFER, said)).hear(message())) == ["c", "c", "c"]
    refusal = answers(conversation(limits, (OFFER, said)).hear(mail()))[0]
    assert refusal.startswith(f"y451 4.3.2 {key} is over its limit of 1 messages")


def test_packets_may_come_in_pieces_of_any_size(limits: Limits) -> None:
    made = conversation(limits)
    said = b"".join(made.hear(bytes([byte])) for byte in message() + mail())
    assert [answer[0] for answer in answers(said)] == ["c", "c", "c", "y"]


def test_a_connection_that_the_mta_keeps_for_its_next_client_begins_anew(limits: Limits) -> None:
    made = conversation(limits)
    assert answers(made.hear(message() + ANOTHER + client("192.0.2.2") + message() + mail()))[:-1] == ["c"] * 7
    assert made.hear(ANOTHER + client("192.0.2.1"))
    assert answers(made.hear(mail()))[0].startswith("y451 4.3.2 192.0.2.1 ")
    made.hear(QUIT)
    assert made.ended


@pytest.mark.parametrize("said", [
    b"HTTP/1.1 200 OK\r\n\r\n", b"\0\0\0\0" * 2, b"\xff\xff\xff\xffc", wire.packet(b"?"), wire.packet(b"D", b""), OFFER,
    wire.packet(b"C", b"no family\0"), wire.packet(b"M", b"no end"), wire.packet(b"R", b"")])
def test_what_no_mta_says_ends_the_conversation(limits: Limits, said: bytes) -> None:
    with pytest.raises(wire.WireError):
        conversation(limits).hear(said)


@pytest.mark.parametrize("said", [client(), mail(), END, wire.packet(b"O", b"short"),
                                  wire.packet(b"O", wire.OFFER.pack(1, 0, 0))])
def test_nothing_can_be_said_before_a_proper_offer(limits: Limits, said: bytes) -> None:
    with pytest.raises(wire.WireError):
        conversation(limits, ()).hear(said)
    with pytest.raises(wire.WireError):
        conversation(limits, (OFFER,)).hear(mail())


@pytest.mark.parametrize("before", [b"", mail() + ABORT, mail() + rcpt() + END])
def test_an_end_of_a_message_that_nothing_was_reserved_for_is_no_accept(limits: Limits, before: bytes) -> None:
    assert answers(conversation(limits).hear(before + END))[-1] == "t"


class Broken(Limits):
    """Limits with a bug."""

    def __init__(self) -> None:
        self.directory = parts(Policy()).limits.directory

    def open(self, *_: Any) -> Any:
        raise RuntimeError("a bug\nwith a line")


def test_an_exception_is_logged_and_becomes_a_temporary_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert answers(conversation(Broken(), (OFFER,)).hear(client())) == ["t"]
    assert caplog.records[0].getMessage() == "event=callback_failed callback=connect"


@pytest.mark.parametrize(("told", "limit"), [
    ({"_client_resolve_": "OK"}, 5), ({"_client_resolve_": "FORGED"}, 1), ({"v": "Postfix 3.7.11"}, 5), ({}, 1),
    ({"_client_resolve_": "TEMP", "v": "Postfix 3.7.11"}, 1), ({"j": "v", "x": "{client_resolve}", "y": "OK"}, 1)])
def test_a_host_name_counts_only_if_the_mta_has_verified_it(
        limits: Limits, told: dict[str, str], limit: int) -> None:
    made = conversation(limits, (OFFER, macros(b"C", **told), client(host="www.trusted.example")))
    assert answers(made.hear(message() * limit)) == ["c", "c", "c"] * limit
    assert answers(made.hear(mail()))[0][0] == "y"


def test_a_login_pays_for_its_own_messages_and_for_no_others() -> None:
    limits = parts(Policy(limits=Base(messages=100), login_limits=KeyRates(messages=2))).limits
    made = conversation(limits)
    mine, yours = (macros(b"M", _auth_authen_=name) for name in ("mine", "yours"))
    assert answers(made.hear((mine + message()) * 2)) == ["c"] * 6
    assert answers(made.hear(mine + mail()))[0].startswith("y451 4.3.2 login mine is over its limit of 2 messages")
    assert answers(made.hear(ABORT + message())) == ["c"] * 3, "the next one's macros are its own"
    assert answers(made.hear(yours + message())) == ["c"] * 3


def test_logins_that_are_no_utf8_are_told_apart() -> None:
    made = conversation(parts(Policy(limits=Base(messages=100), login_limits=KeyRates(messages=1))).limits)
    one, other = (wire.packet(b"D", b"M{auth_authen}\0" + name + b"\0") for name in (b"\xfe", b"\xff"))
    assert answers(made.hear(one + message() + other + message())) == ["c"] * 6
    assert answers(made.hear(one + mail()))[0].startswith("y451 4.3.2 login ")


def test_recipients_that_the_mta_refuses_are_counted_and_taken_for_none() -> None:
    made = conversation(parts(Policy(limits=Base(messages=9, refused_recipients=2))).limits)
    refused = macros(b"R", _rcpt_mailer_="error") + rcpt()
    assert answers(made.hear(mail() + refused * 2)) == ["c"] * 3
    taken = macros(b"R", _rcpt_mailer_="smtp") + rcpt()
    assert answers(made.hear(taken))[0].startswith("y421 4.5.1 192.0.2.1 is over its limit of 2 refused recipients")


def test_a_logged_decision_has_the_queue_id_as_soon_as_there_is_one(
        limits: Limits, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = conversation(limits)
    made.hear(mail() + macros(b"R", i="4ABC") + rcpt() + END)
    made.hear(mail())
    made.hear(ABORT + macros(b"M", i="4DEF") + mail())
    assert "queue_id=4ABC" in caplog.records[0].getMessage()
    assert "queue_id" not in caplog.records[1].getMessage()


PACKETS = st.builds(wire.packet, st.sampled_from([bytes([c]) for c in b"OCHMRTULNBEAQKD?"]), st.binary(max_size=40))
SAID = st.lists(st.sampled_from([OFFER, client(), mail(), rcpt(), END, ABORT, ANOTHER, macros(b"M", _auth_authen_="x")])
                | PACKETS | st.binary(max_size=12), max_size=12).map(b"".join)


def test_whatever_is_said_is_answered_or_ends_the_conversation(full: bool) -> None:
    """And what it reserved is given back."""
    policy = Policy(limits=Base(messages=10**9, recipients=10**9), login_limits=KeyRates(messages=10**9))
    made = parts(policy)

    def check(said: bytes, cut: int) -> None:
        talk = conversation(made.limits, ())
        with suppress(wire.WireError):
            answers(talk.hear(said[:cut]) + talk.hear(said[cut:]))
        talk.close()
        assert made.limits.sessions == 0
    cases = fuzz(full, check, SAID.map(lambda said: OFFER + client() + said) | SAID, st.integers(0, 60))
    promise(12, "generated conversations with an MTA that raise anything or keep what they reserved", 0, 0,
            f"{cases} conversations")


@given(st.text(max_size=400))
def test_an_envelope_address_is_bounded_and_never_empty(text: str) -> None:
    assert 0 < len(envelope_address(text)) <= 320
    assert envelope_address("<>") == "<>"
    assert envelope_address("<A@B.example>") == "a@b.example"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_a_declared_size_is_a_number_whatever_is_written(words: list[str]) -> None:
    assert declared_bytes(words) >= 0
    assert declared_bytes(["BODY=8BITMIME", "size=1234", *words]) == 1234
    assert declared_bytes(["SIZE=" + "9" * 400]) <= 1 << 50
