"""Each limit as a client of a real sendmail meets it: which code, at which command, and what it costs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.core.verdict import State
from lab.namespaces import Namespace
from lab.sendmail import Sendmail
from lab.sink import Sink
from tests.relay import mtas
from tests.relay.limits_alike import ADDRESSES, LimitsAlike, data, run
from tests.relay.running import MILTER_PORT, REFUSED_DOMAIN, SINK_PORT, Client, Milter, Site, send_together

CLIENTS = ("192.0.2.1", "192.0.2.2", "2001:db8:0:1::1")


class SendmailRelay:
    """A namespace with sendmail, as `mta-config` prints it, and a sink behind it."""

    def __init__(self) -> None:
        self.namespace = Namespace("relay")
        try:
            self.namespace.ip(*(f"addr add {address} dev lo" for address in CLIENTS))
            self.sink = Sink(self.namespace, port=SINK_PORT)
            self.sendmail = self._sendmail()
        except BaseException:
            self.namespace.close()
            raise

    def _sendmail(self) -> Sendmail:
        printed = mtas.printed("--mta", "sendmail", "--role", "relay", "--milter", f"inet:{MILTER_PORT}@127.0.0.1",
                               "--network", "192.0.2.0/24", "--network", "2001:db8::/32")
        delivery = f"define(`ESMTP_MAILER_ARGS', `TCP $h {SINK_PORT}')dnl\nFEATURE(`mailertable')dnl\n"
        # Without aliases every local user would be accepted, and looked up later.
        refusals = "define(`ALIAS_FILE', `null:none')dnl\nFEATURE(`blacklist_recipients')dnl\n"
        return Sendmail(self.namespace, mc=delivery + printed["/etc/mail/sendmail.mc"] + refusals,
                        names={address: f"client{n}.example" for n, address in enumerate(CLIENTS)},
                        maps={"mailertable": "outside.example\tesmtp:[127.0.0.1]\n",
                              "access": f"{printed['/etc/mail/access']}To:{REFUSED_DOMAIN}\tREJECT\n"})

    def client(self, address: str) -> Client:
        return Client(self.namespace, address)

    def close(self) -> None:
        self.sendmail.close()
        self.sink.close()
        self.namespace.close()


@pytest.fixture(scope="module")
def sendmail_relay(root: None) -> Iterator[SendmailRelay]:
    relay = SendmailRelay()
    yield relay
    relay.close()


@pytest.fixture
def site(sendmail_relay: SendmailRelay, tmp_path: Path) -> Iterator[Site]:
    site = Site(sendmail_relay, tmp_path)  # type: ignore[arg-type]  # it has what a Site asks for
    yield site
    site.close()


class TestLimitsAlike(LimitsAlike):
    """By sendmail."""


@pytest.mark.parametrize("address", ADDRESSES)
def test_of_parallel_messages_exactly_as_many_as_the_limit_pass(site: Site, address: str) -> None:
    site.run(4)
    assert sorted(send_together([site.relay.client(address)] * 12)) == [250] * 4 + [451] * 8


def test_a_network_has_one_budget_over_all_its_clients(site: Site) -> None:
    run(site, "", "[[client]]\nmatch = ['192.0.2.0/24', '2001:db8::/32']\nshared = { messages = 3 }\n")
    assert sorted(send_together([site.relay.client(a) for a in CLIENTS] * 3)) == [250] * 3 + [451] * 6


def test_a_transaction_that_goes_over_the_refused_recipients_is_cut_with_421(site: Site) -> None:
    run(site, "refused_recipients = 2")
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 250
        assert [smtp.rcpt(f"nobody{n}@relay.example")[0] for n in range(2)] == [550, 550]
        code, text = smtp.rcpt("good@outside.example")
        assert (code, b"its limit of 2 refused recipients" in text) == (421, True)
    with client.connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 451


def test_recipients_that_sendmails_rules_refuse_are_told_to_no_milter_so_they_are_not_counted(site: Site) -> None:
    """Debian's sendmail is built without that; should it be one day, the documents are to say so."""
    milter = run(site, "refused_recipients = 2")
    with site.relay.client("192.0.2.1").connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 250
        assert [smtp.rcpt(f"user{n}@{REFUSED_DOMAIN}")[0] for n in range(3)] == [550] * 3
        assert smtp.rcpt("good@outside.example")[0] == 250
        assert data(smtp) == 250
    assert "refused_recipients" not in milter.log


def test_the_hold_queue_takes_what_a_held_client_sends(site: Site, sendmail_relay: SendmailRelay) -> None:
    milter: Milter = run(site, "", "[tiers.compromised]\ntier = 'held'\nhold_queue = true\n")
    site.publish(600.0, h1=State.COMPROMISED)
    milter.wait_for_log("tier=held")
    assert site.relay.client("192.0.2.1").send(1) == [250]
    queue = sendmail_relay.sendmail.folder / "queue"
    assert len(list(queue.glob("hf*"))) == 1
    for left in queue.iterdir():
        left.unlink()
