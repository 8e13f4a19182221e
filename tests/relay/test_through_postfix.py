"""What a client of a real Postfix meets: exact limits, verdicts that come and lapse, no lost mail."""

import re
import signal
import smtplib
from dataclasses import replace

import pytest

from egressguard.core.documents import Client as Reported
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from lab.namespaces import wait_until
from tests.promises import promise
from tests.relay.running import CLIENTS, STRANGER, Client, Relay, Site, send_together

ADDRESSES = ["192.0.2.1", "2001:db8:0:1::1"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_exactly_as_many_messages_as_the_limit_are_accepted(site: Site, address: str) -> None:
    site.run(3)
    client = site.relay.client(address)
    assert client.send(6) == [250] * 3 + [451] * 3
    text = client.replies[-1][1]
    assert "4.3.2" in text
    assert "limit of 3 messages in 600 seconds" in text
    assert "try again in" in text


def test_messages_over_one_connection_count_like_those_over_many(site: Site) -> None:
    site.run(3)
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert [client.send_over(smtp) for _ in range(5)] == [250] * 3 + [451] * 2
    assert client.send(1) == [451]


def test_each_client_has_its_own_limit_and_an_ipv6_64_is_one_client(site: Site) -> None:
    site.run(2)
    send = {a: site.relay.client(a).send for a in CLIENTS}
    assert send["192.0.2.1"](3) == [250, 250, 451]
    assert send["192.0.2.2"](3) == [250, 250, 451]
    assert send["2001:db8:0:1::1"](2) == [250, 250]
    assert send["2001:db8:0:1::2"](1) == [451]
    assert send["2001:db8:0:2::2"](1) == [250]


@pytest.mark.parametrize("address", ADDRESSES)
def test_of_parallel_clients_exactly_as_many_as_the_limit_pass(site: Site, address: str) -> None:
    site.run(5)
    codes = send_together([site.relay.client(address) for _ in range(20)])
    assert sorted(codes) == [250] * 5 + [451] * 15
    promise(9, f"messages that pass a limit of 5 from parallel connections of one client through Postfix, {address}",
            codes.count(250), 5, "20 connections")


def test_a_message_counts_from_mail_on_and_an_unfinished_one_is_given_back(site: Site) -> None:
    site.run(3)
    client = site.relay.client("192.0.2.1")
    open_ones = [client.connect() for _ in range(3)]
    assert [smtp.mail("a@inside.example")[0] for smtp in open_ones] == [250] * 3
    assert client.send(1) == [451]
    open_ones[0].rset()
    open_ones[1].close()  # without a word
    open_ones[2].quit()
    open_ones[0].close()
    # Postfix notices the silent end in its own time.
    wait_until(lambda: client.send(1) == [451] and accepted(client) == 3, "all three to be given back")
    assert client.send(2) == [451, 451]


def accepted(client: Client) -> int:
    return sum(code == 250 for code, _ in client.replies)


def test_a_message_whose_recipients_are_all_refused_costs_nothing(site: Site) -> None:
    site.run(2)
    with site.relay.client(STRANGER).connect() as smtp:
        for _ in range(5):
            assert smtp.mail("a@inside.example")[0] == 250
            assert smtp.rcpt("somebody@outside.example")[0] == 554
            smtp.rset()


def test_xclient_makes_the_connection_another_client(site: Site) -> None:
    site.run(2)
    client = site.relay.client("127.0.0.1")
    with client.connect() as smtp:
        assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
        assert smtp.docmd("XCLIENT", "ADDR=192.0.2.7 NAME=[UNAVAILABLE]")[0] == 220
        smtp.ehlo("client.example")
        assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
    assert site.relay.client("192.0.2.7").send(1) == [451]


def test_the_window_slides(site: Site) -> None:
    site.run(2, window_s=3.0)
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
        wait_until(lambda: client.send_over(smtp) == 250, "the first message to leave the window")


def test_a_verdict_shrinks_the_limit_and_the_report_says_so(site: Site) -> None:
    milter = site.run(10)
    suspect, other = site.relay.client("192.0.2.1"), site.relay.client("192.0.2.2")
    site.publish(600.0, h1=State.COMPROMISED)
    milter.wait_for_log("event=tier client=192.0.2.1 verdict=compromised")
    assert suspect.send(3) == [250, 451, 451]
    assert "limit of 1 messages in 600 seconds (tightened)" in suspect.replies[-1][1]
    assert other.send(3) == [250] * 3
    expected = {Host("192.0.2.1"): Reported(Tier.TIGHTENED, 1, 1, 2, {"messages": 2}, 1, 0, 1, 1, 0, 3, 1, 1),
                Host("192.0.2.2"): Reported(Tier.NORMAL, 10, 3, 0, {}, 3, 0, 1, 1, 0, 3, 1, 1)}

    def reported() -> bool:
        report = site.report()
        return report is not None and expected == {h: replace(c, declared_bytes=0) for h, c in report.clients.items()}
    wait_until(reported, "the report")
    assert milter.log.count("event=deferred client=192.0.2.1 key=192.0.2.1 limit=messages most=1 used=1") == 1
    assert re.search(r"event=accepted client=192\.0\.2\.2 .*queue_id=[0-9A-F]+", milter.log)


def test_a_held_client_is_deferred_altogether(site: Site) -> None:
    milter = site.start(site.policy(10) + "[tiers.compromised]\ntier = 'held'\n")
    site.publish(600.0, h1=State.COMPROMISED)
    milter.wait_for_log("event=tier client=192.0.2.1 verdict=compromised")
    assert site.relay.client("192.0.2.1").send(2) == [451, 451]
    assert site.relay.client("192.0.2.2").send(1) == [250]


def test_a_stale_verdict_gives_the_base_limit_back(site: Site) -> None:
    milter = site.run(10)
    client = site.relay.client("192.0.2.1")
    site.publish(5.0, h1=State.COMPROMISED)
    milter.wait_for_log("tier=tightened")
    assert client.send(2) == [250, 451]
    milter.wait_for_log("tier=normal")
    assert client.send(10) == [250] * 9 + [451]


def test_without_an_exchange_the_base_limit_holds_and_a_later_one_is_found(site: Site) -> None:
    site.exchange_path = site.folder / "later" / "exchange.db"
    site.exchange_path.parent.write_text("this is no folder")
    milter = site.run(3)
    assert site.relay.client("192.0.2.2").send(4) == [250] * 3 + [451]
    assert milter.log.count("event=exchange_unavailable") == 1
    site.exchange_path.parent.unlink()
    site.exchange_path.parent.mkdir()
    site.publish(600.0, h1=State.COMPROMISED)
    milter.wait_for_log("tier=tightened")
    assert site.relay.client("192.0.2.1").send(2) == [250, 451]


def test_a_killed_milter_loses_no_mail_and_lets_none_pass(site: Site) -> None:
    wait_until(lambda: site.relay.postfix.queued() == 0, "the mail of earlier tests to arrive")
    before = site.relay.delivered_count()
    milter = site.run(100)
    client = site.relay.client("192.0.2.1")
    codes = client.send(2)
    with client.connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 250
        smtp.rcpt("somebody@outside.example")
        milter.process.kill()
        milter.process.wait()
        code, _ = smtp.data(b"Subject: test\r\n\r\nThis is one.\r\n")  # at DATA itself it is not asked
        assert code // 100 == 4
    assert all(code in (421, 451) for code in client_codes_without_milter(site.relay, "192.0.2.1"))
    site.run(100)
    codes += client.send(2)
    assert codes == [250] * 4
    wait_until(lambda: site.relay.delivered_count() == before + 4, "the accepted messages to arrive")
    wait_until(lambda: site.relay.postfix.queued() == 0, "the queue to be empty")


def client_codes_without_milter(relay: Relay, address: str) -> list[int]:
    try:
        return relay.client(address).send(3)
    except smtplib.SMTPResponseException as error:  # the greeting is the refusal
        return [error.smtp_code]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_is_quick_and_clean_although_clients_are_connected(
        site: Site, number: signal.Signals) -> None:
    milter = site.run(100)
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        client.send_over(smtp)
        smtp.mail("a@inside.example")
        milter.process.send_signal(number)
        assert milter.process.wait(30) == 0
        assert smtp.rcpt("somebody@outside.example")[0] // 100 in (2, 4)
    assert f"event=stopped reason={number.name}" in milter.log
    report = site.report()
    assert report is not None
    assert report.clients[Host("192.0.2.1")].accepted == 1


def test_what_no_client_should_say_neither_crashes_it_nor_costs_anything(site: Site) -> None:
    milter = site.run(2)
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        for words in (b"MAIL FROM:<\xe4\xff%s%n@inside.example>", b"NONSENSE", b"RSET", b"DATA"):
            smtp.send(words + b"\r\n")
            smtp.getreply()
        assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
    assert "Traceback" not in milter.log
