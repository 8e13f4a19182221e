"""Only what a site key vouches for, as the kind of document that it is, is believed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.signing import UNSIGNED, ForgedError, Keyring, parse_keys

OLD, NEW = Keyring({"old": b"o" * 32}), Keyring({"new": b"n" * 32})
BOTH = Keyring({**NEW.keys, **OLD.keys})
BODY = '{"name":"r1"}'


@given(st.text(max_size=200))
def test_what_was_signed_is_believed_by_whoever_has_the_key(body: str) -> None:
    assert OLD.verified("bulletin", OLD.sign("bulletin", body)) == body


@given(st.data())
def test_a_changed_character_anywhere_is_a_forgery(data: st.DataObject) -> None:
    text = OLD.sign("bulletin", BODY)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[at]))
    with pytest.raises(ForgedError):
        OLD.verified("bulletin", text[:at] + changed + text[at + 1:])


@pytest.mark.parametrize("cut", [1, 10, 70, 80])
def test_a_truncated_one_is_a_forgery(cut: int) -> None:
    with pytest.raises(ForgedError):
        OLD.verified("bulletin", OLD.sign("bulletin", BODY)[:-cut])


def test_a_report_is_no_bulletin() -> None:
    with pytest.raises(ForgedError, match="wrong signature"):
        OLD.verified("bulletin", OLD.sign("report", BODY))


@pytest.mark.parametrize(("keyring", "text", "why"), [
    (OLD, BODY, "not signed"), (NEW, OLD.sign("report", BODY), "not known"),
    (UNSIGNED, OLD.sign("report", BODY), "no exchange_key"), (OLD, "", "not signed"), (OLD, "eg1", "not known")])
def test_without_the_key_nothing_is_believed(keyring: Keyring, text: str, why: str) -> None:
    with pytest.raises(ForgedError, match=why):
        keyring.verified("report", text)


def test_a_key_is_changed_in_three_steps_and_every_document_is_believed_meanwhile() -> None:
    steps = [OLD, Keyring({**OLD.keys, **NEW.keys}), BOTH, NEW]
    for writer, reader in pairwise(steps):
        for one, other in ((writer, reader), (reader, writer)):
            if (one, other) != (OLD, NEW):
                assert other.verified("report", one.sign("report", BODY)) == BODY


def test_a_key_file() -> None:
    assert parse_keys(f"# ours\nnew {'ab' * 32}\n\nold {'cd' * 40}  # until Monday\n") == Keyring(
        {"new": bytes.fromhex("ab" * 32), "old": bytes.fromhex("cd" * 40)})


@pytest.mark.parametrize(("text", "why"), [
    ("", "0 keys"), ("ab" * 32, "line 1"), ("a " + "ab" * 31, "at least 64"), ("a " + "xy" * 32, "line 1"),
    (f"a {'ab' * 32}\na {'cd' * 32}", "twice"), (f"a b {'ab' * 32}", "line 1"), ("a " + "ab" * 32 + "a", "at least")])
def test_another_key_file_says_what_would_be_right_and_no_secret(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_keys(text)
    assert "abab" not in str(error.value)
