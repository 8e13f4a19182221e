"""Whatever stands in a reply or a log line, it is one line, bounded, and libmilter accepts it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.hosts import Host
from egressguard.core.verdict import Tier
from egressguard_milter.journal import REMEMBERED_CLIENTS, REPEAT_S, Repetitions, line
from egressguard_milter.limits import Decision
from egressguard_milter.reply import MAX_LENGTH, escape, reply_text

HOST = Host("192.0.2.1")


@given(st.text(max_size=2000))
def test_a_reply_is_one_bounded_line_with_every_percent_doubled(text: str) -> None:
    escaped = escape(text)
    assert re.fullmatch(r"[ -~]*", escaped)
    assert len(escaped) <= MAX_LENGTH
    assert all(len(run) % 2 == 0 for run in re.findall("%+", escaped))


def test_a_deferred_client_learns_which_limit_and_when_to_come_back() -> None:
    text = reply_text(Decision(HOST, Tier.TIGHTENED, 4, 600.0, 4, "messages", 12.3))
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
    for number in range(REMEMBERED_CLIENTS + 10):
        repetitions.suppressed(Host(f"host {number}"), 0.0)
    assert len(repetitions._said) == REMEMBERED_CLIENTS
