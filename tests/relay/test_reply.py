"""Whatever stands in a reply or a log line, it is one line, bounded, and an MTA can pass it on."""

import logging
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.decision import Decision
from egressguard_milter.journal import REMEMBERED_KEYS, REPEAT_S, Repetitions, line
from egressguard_milter.log import LINES_PER_S, DecisionLog
from egressguard_milter.reply import COUNTED, MAX_LENGTH, codes, escape, reply_text

HOST = Host("192.0.2.1")


@given(st.text(max_size=2000))
@example("%")
@example("100%" * 500)
def test_a_reply_is_one_bounded_line_with_every_percent_doubled(text: str) -> None:
    escaped = escape(text)
    assert re.fullmatch(r"[ -~]*", escaped)
    assert len(escaped) <= MAX_LENGTH
    assert all(len(run) % 2 == 0 for run in re.findall("%+", escaped))


def test_a_deferred_client_learns_which_limit_and_when_to_come_back() -> None:
    text = reply_text(Decision(HOST, Tier.TIGHTENED, State.SUSPECT, "messages", HOST, 4, 4, 600.0, 12.3))
    assert text == ("192.0.2.1 is over its limit of 4 messages in 600 seconds (tightened); "
                    "try again in 13 seconds")


@given(st.text(max_size=1000))
def test_no_value_can_forge_a_log_line_or_a_field(text: str) -> None:
    written = line("deferred", client=text)
    assert "\n" not in written
    assert written.isascii()
    assert re.fullmatch(r'event=deferred client=([^ "=]+|"([^"\\]|\\.)*")', written)


def test_a_client_that_keeps_trying_has_one_line_a_minute_and_the_rest_counted() -> None:
    repetitions = Repetitions()
    said = [repetitions.suppressed(HOST, float(second)) for second in range(int(REPEAT_S) + 1)]
    assert said == [0] + [None] * (int(REPEAT_S) - 1) + [int(REPEAT_S) - 1]


def test_no_number_of_clients_makes_the_memory_of_the_log_grow() -> None:
    repetitions = Repetitions()
    for number in range(REMEMBERED_KEYS + 10):
        repetitions.suppressed(Host(f"host {number}"), 0.0)
    assert len(repetitions._said) == REMEMBERED_KEYS


@pytest.mark.parametrize(("limit", "expected"), [
    ("connections", ("421", "4.5.1")), ("open_connections", ("421", "4.5.1")), ("sessions", ("421", "4.5.1")),
    ("messages", ("451", "4.3.2")), ("recipients", ("451", "4.3.2")), ("recipients_per_message", ("451", "4.3.2")),
    ("messages_per_connection", ("451", "4.3.2")), ("refused_recipients", ("451", "4.3.2")),
    ("held", ("451", "4.3.2"))])
def test_every_limit_has_ze_filters_code_and_a_text_that_says_which_and_when(
        limit: Any, expected: tuple[str, str]) -> None:
    decision = Decision(HOST, limit=limit, key=HOST, most=4, window_s=60.0, retry_s=7.0)
    assert codes(decision) == expected
    assert "try again in 7 seconds" in reply_text(decision)
    assert COUNTED.get(limit, "") in reply_text(decision)


def test_many_clients_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = DecisionLog()
    for number in range(5 * int(LINES_PER_S)):
        log.say("deferred", Decision(Host(f"192.0.2.{number}"), limit="messages"), lambda: "")
    assert LINES_PER_S <= len(caplog.records) < 2 * LINES_PER_S


def test_a_decision_is_one_line_with_everything_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    decision = Decision(HOST, Tier.TIGHTENED, State.SUSPECT, "messages", "sender evil\n event=x@y", 4, 4, 600.0, 9.0)
    for _ in range(3):
        DecisionLog().say("deferred", decision, lambda: "4ABC")
    assert caplog.records[0].getMessage() == (
        'event=deferred client=192.0.2.1 key="sender evil\\n event=x@y" limit=messages most=4 used=4 window_s=600 '
        "tier=tightened verdict=suspect retry_s=9 queue_id=4ABC suppressed=0 dropped=0")
