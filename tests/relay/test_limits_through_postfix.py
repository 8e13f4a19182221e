"""Each limit as a client of a real Postfix meets it: which code, at which command, and what it costs."""

import json
import socket
import subprocess
import time
from functools import partial
from typing import Any

import pytest

from egressguard.core.verdict import State
from lab.namespaces import wait_until
from tests.relay.limits_alike import LimitsAlike, data, greeting, recipients, run
from tests.relay.running import COMMAND, REFUSED_DOMAIN, STRANGER, Milter, Site, send_together


class TestLimitsAlike(LimitsAlike):
    """By Postfix."""


def test_a_verdict_shrinks_each_limit_by_its_own_factor(site: Site) -> None:
    milter = run(site, "connections = 10\nrecipients_per_message = 4",
                 "[tiers.compromised]\nfactor = 0.5\nfactors = { connections = 0.1 }\n")
    site.publish(600.0, h1=State.COMPROMISED)
    milter.wait_for_log("tier=tightened")
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert recipients(smtp, 4) == [250, 250, 451, 451]
    assert greeting(client)[0] == 421


def test_refused_recipients_end_the_connection_before_a_554_could_be_taken_for_final(site: Site) -> None:
    run(site, "refused_recipients = 3")
    client = site.relay.client(STRANGER)
    with client.connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 250
        codes = [smtp.rcpt(f"user{n}@outside.example")[0] for n in range(3)]
        assert codes == [554] * 3
        smtp.rset()
        code, text = smtp.mail("a@inside.example")
        assert (code, b"its limit of 3 refused recipients" in text) == (451, True)


def test_a_transaction_that_goes_over_the_refused_recipients_is_cut_with_421(site: Site) -> None:
    run(site, "refused_recipients = 2")
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 250
        assert [smtp.rcpt(f"user{n}@{REFUSED_DOMAIN}")[0] for n in range(2)] == [554, 554]
        code, text = smtp.rcpt("good@outside.example")
        assert (code, b"its limit of 2 refused recipients" in text) == (421, True)
    with client.connect() as smtp:
        assert smtp.mail("a@inside.example")[0] == 451


def test_a_message_with_good_recipients_goes_to_them_whatever_else_is_refused(site: Site) -> None:
    run(site, "refused_recipients = 2")
    with site.relay.client("192.0.2.1").connect() as smtp:
        assert recipients(smtp, 1) == [250]
        assert [smtp.rcpt(f"user{n}@{REFUSED_DOMAIN}")[0] for n in range(3)] == [554] * 3
        assert smtp.rcpt("good@outside.example")[0] == 451
        assert data(smtp) == 250


@pytest.mark.parametrize("more", [
    "[[client]]\nmatch = ['192.0.2.0/24', '2001:db8::/32']\nshared = { messages = 3 }\n",
    "[[client]]\nmatch = ['192.0.2.0/24', '2001:db8::/32']\ngroup = 'web'\n"
    "[groups.web]\nshared = { messages = 3 }\n",
    "[sender_limits]\nmessages = 3\n",
])
def test_a_network_a_group_and_a_sender_have_one_budget_over_all_their_clients(site: Site, more: str) -> None:
    run(site, "", more)
    clients = [site.relay.client(a) for a in ("192.0.2.1", "192.0.2.2", "2001:db8:0:1::1")]
    assert sorted(send_together(clients * 3)) == [250] * 3 + [451] * 6


def test_several_windows_on_one_key_all_hold(site: Site) -> None:
    policy = site.policy(2, window_s=2.0) + "also = [{ window_s = 86400.0, messages = 4 }]\n"
    site.start(policy).wait_for_log("event=started")
    client = site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
        wait_until(lambda: client.send_over(smtp) == 250, "the short window")
        assert client.send_over(smtp) == 250
        time.sleep(2.1)
        assert client.send_over(smtp) == 451
    assert "4 messages in 86400 seconds" in client.replies[-1][1]


def test_the_hold_queue_takes_what_a_held_client_sends(site: Site) -> None:
    milter = run(site, "", "[tiers.compromised]\ntier = 'held'\nhold_queue = true\n")
    site.publish(600.0, h1=State.COMPROMISED)
    milter.wait_for_log("tier=held")
    assert site.relay.client("192.0.2.1").send(1) == [250]
    wait_until(lambda: "hold" in queue_names(site), "the message in the hold queue")
    site.relay.postfix.namespace.run(site.relay.postfix._command("postsuper", "-d", "ALL", "hold"))


def queue_names(site: Site) -> list[str]:
    listed = site.relay.namespace.run(site.relay.postfix._command("postqueue", "-j")).stdout
    return [json.loads(line)["queue_name"] for line in listed.splitlines()]


class Command:
    """egressguard-milter as the administrator runs it."""

    def __init__(self, site: Site, milter: Milter) -> None:
        self.config = milter._log.parent / "policy.toml"

    def __call__(self, *words: str, code: int = 0) -> Any:
        done = subprocess.run([COMMAND, *words, "--config", self.config, "--json"], text=True, capture_output=True,
                              check=False, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else done.stderr


def test_the_administrator_sees_explains_and_forgives_a_client_and_a_restart_keeps_it(site: Site) -> None:
    milter = site.run(2)
    command, client = Command(site, milter), site.relay.client("192.0.2.1")
    assert client.send(4) == [250, 250, 451, 451]
    status = command("status")
    assert (status["healthy"], status["accepted"], status["deferred"]) == (True, 2, 2)
    (row,) = command("clients")["clients"]
    assert (row["client"], row["deferred"], row["recipients"]) == ("192.0.2.1", {"messages": 2}, 2)
    limits = {limit["limit"]: limit for limit in command("explain", "192.0.2.1")["limits"]}
    assert limits["messages"] == {"limit": "messages", "used": 2, "most": 2, "window_s": 600.0, "source": "limits"}
    assert {name: (limit["used"], limit["most"]) for name, limit in limits.items()} \
        == {"messages": (2, 2), "recipients": (2, 20), "refused_recipients": (0, 20)}
    assert command("forgive", "192.0.2.1")["forgiven"]
    assert client.send(1) == [250]
    milter.process.kill()
    milter.process.wait()
    assert "no milter answers" in command("status", code=2)["error"]
    again = site.run(2)
    assert Command(site, again)("explain", "192.0.2.1")["limits"][0]["used"] == 1
    assert client.send(2) == [250, 451]


def test_a_reload_counts_at_once_and_a_bad_one_changes_nothing(site: Site) -> None:
    milter = site.run(2)
    command, client = Command(site, milter), site.relay.client("192.0.2.1")
    with client.connect() as smtp:
        assert [client.send_over(smtp) for _ in range(3)] == [250, 250, 451]
        good = command.config.read_text()
        command.config.write_text(good.replace("messages = 2", "messages = 4\nmesages = 4"))
        refused = command("reload", code=1)
        assert "mesages: unknown key" in refused["error"]
        assert "the old policy holds" in refused["error"]
        assert client.send_over(smtp) == 451
        command.config.write_text(good.replace("messages = 2", "messages = 3"))
        assert command("reload")["reloaded"]
        assert [client.send_over(smtp) for _ in range(2)] == [250, 451]
    assert command("status")["healthy"]


def test_a_milter_killed_again_and_again_lets_no_more_than_the_limit_pass(site: Site) -> None:
    client, codes = site.relay.client("192.0.2.1"), list[int]()
    for _ in range(6):
        milter = site.run(10)
        codes += client.send(3)
        milter.process.kill()
        milter.process.wait()
    assert (codes.count(250), codes.count(451)) == (10, 8)


def test_mta_connections_that_stall_do_not_delay_others(site: Site) -> None:
    site.run(1000)
    stalled = [site.relay.namespace.call(partial(dial, n)) for n in range(100)]
    client = site.relay.client("192.0.2.1")
    assert client.send(5) == [250] * 5
    for peer in stalled:
        peer.close()
    assert client.send(5) == [250] * 5


def dial(number: int) -> socket.socket:
    """A connection to the milter that begins a packet and never ends it."""
    peer = socket.create_connection(("127.0.0.1", 8892))
    peer.sendall([b"", b"\0", b"\0\0\0\x0dO", b"\x7f\xff\xff\xffC"][number % 4])
    return peer
