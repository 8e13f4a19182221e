"""Limits that every MTA's client meets alike: each MTA's file has a class of these tests, and the `site` that they run on."""

import smtplib

import pytest

from lab.namespaces import wait_until
from tests.relay.running import Client, Milter, Site

ADDRESSES = ["192.0.2.1", "2001:db8:0:1::1"]


def run(site: Site, text: str, more: str = "") -> Milter:
    """A milter whose [limits] are `text` alone; `more` are other tables."""
    policy = site.policy(1).replace("messages = 1\n", "messages = 1000\n")
    milter = site.start(f"{policy}{text}\n{more}")
    milter.wait_for_log("event=started")
    return milter


def greeting(client: Client) -> tuple[int, str]:
    """The first reply to a connection."""
    try:
        with client.connect():
            return 220, ""
    except smtplib.SMTPConnectError as error:
        text = error.smtp_error
        return error.smtp_code, text if isinstance(text, str) else text.decode()
    except smtplib.SMTPServerDisconnected:
        return 0, ""


def recipients(smtp: smtplib.SMTP, count: int) -> list[int]:
    """The codes of so many RCPT in a new transaction."""
    assert smtp.mail("a@inside.example")[0] == 250
    return [smtp.rcpt(f"user{n}@outside.example")[0] for n in range(count)]


def data(smtp: smtplib.SMTP) -> int:
    return smtp.data(b"Subject: test\r\n\r\nThis is one.\r\n")[0]


class LimitsAlike:
    """Whoever inherits them has them all."""

    @pytest.mark.parametrize("address", ADDRESSES)
    def test_connections_over_the_rate_are_refused_with_421_and_an_open_one_goes_on(self, site: Site, address: str) -> None:
        milter = run(site, "connections = 3")
        client = site.relay.client(address)
        with client.connect() as first:
            assert [greeting(client)[0] for _ in range(4)] == [220, 220, 421, 421]
            assert client.send_over(first) == 250
        milter.wait_for_log("event=refused")
        assert "limit=connections most=3 used=3 window_s=600" in milter.log

    @pytest.mark.parametrize("address", ADDRESSES)
    def test_connections_at_once_are_refused_with_421_until_one_closes(self, site: Site, address: str) -> None:
        run(site, "open_connections = 2")
        client = site.relay.client(address)
        one, two = client.connect(), client.connect()
        assert greeting(client)[0] == 421
        assert [client.send_over(smtp) for smtp in (one, two)] == [250, 250]
        one.quit()
        wait_until(lambda: greeting(client)[0] == 220, "the place of the closed connection")
        two.quit()

    def test_recipients_per_message_over_the_limit_are_deferred_and_the_message_goes_to_the_others(self, site: Site) -> None:
        run(site, "recipients_per_message = 2")
        with site.relay.client("192.0.2.1").connect() as smtp:
            for _ in range(2):
                assert recipients(smtp, 4) == [250, 250, 451, 451]
                assert data(smtp) == 250

    def test_messages_per_connection_and_a_new_connection_begins_anew(self, site: Site) -> None:
        run(site, "messages_per_connection = 2")
        client = site.relay.client("192.0.2.1")
        for _ in range(2):
            with client.connect() as smtp:
                assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
        assert "its limit of 2 messages per connection" in client.replies[-1][1]

    @pytest.mark.parametrize("address", ADDRESSES)
    def test_recipients_over_time_are_deferred_at_rcpt_and_no_message_ever_gets_554(self, site: Site, address: str) -> None:
        run(site, "recipients = 5")
        with site.relay.client(address).connect() as smtp:
            assert recipients(smtp, 3) == [250] * 3
            assert data(smtp) == 250
            assert recipients(smtp, 3) == [250, 250, 451]
            assert data(smtp) == 250
            code, text = smtp.mail("a@inside.example")
            assert (code, b"its limit of 5 recipients in 600 seconds" in text) == (451, True)
