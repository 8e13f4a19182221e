"""The how-to "Protecting against outgoing SPAM" as one set-up: web server → relay with a limit → outside.

Every MTA runs with what `egressguard mta-config` prints; the queue age of 15 minutes is shortened by its
own option.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mail import send, send_burst
from lab.namespaces import LabError, wait_until
from lab.network import RELAY, World
from lab.sink import Sink
from tests.relay import mtas
from tests.relay.running import Milter

NETWORKS = ("198.51.100.0/24", "2001:db8:0:11::/64")
LIMIT, WINDOW_S, COUNT = 5, 3.0, 10


@pytest.fixture(scope="module")
def world(root: None) -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def milter(world: World, tmp_path: Path) -> Iterator[Milter]:
    milter = Milter(world.relay, tmp_path / "milter", policy(tmp_path, LIMIT, WINDOW_S))
    milter.wait_for_log("event=started")
    yield milter
    milter.process.kill()
    milter.process.wait()


@pytest.mark.parametrize(("web", "relay", "family"), [
    ("sendmail", "postfix", 0), ("sendmail", "sendmail", 1),
    ("postfix", "postfix", 1), ("postfix", "sendmail", 0),
])
def test_messages_over_the_limit_are_delayed_and_none_is_lost(
        world: World, milter: Milter, web: str, relay: str, family: int) -> None:
    with (Sink(world.outside) as sink, mtas.relay(relay, world.relay, *NETWORKS) as relay_mta,
          mtas.client(web, world.web1, RELAY.addresses[family]) as web_mta):
        replies = send_burst(world.web1, "127.0.0.1", COUNT - 1, recipients=["somebody@outside.example"])
        assert [reply.code for reply in replies] == [250] * (COUNT - 1)
        world.web1.run(["swaks", "--server", "127.0.0.1", "--from", "app@web.example",
                        "--to", "somebody@outside.example", "--header", f"Subject: lab {COUNT - 1}"])
        try:
            sink.wait_for(COUNT, timeout_s=120)
        except LabError as error:
            pytest.fail(f"{error}\n{milter.log}\n{relay_mta.log_text()}\n{web_mta.log_text()}")
        waited = web_mta.log_text().count("451 4.3.2")
        wait_until(lambda: web_mta.queued() + relay_mta.queued() == 0, "both queues to be empty")
        arrived = sink.messages()
    assert Counter(m.subject for m in arrived) == Counter(f"lab {n}" for n in range(COUNT))
    assert waited >= COUNT - LIMIT
    assert f"event=deferred client={client_of(family)}" in milter.log


@pytest.mark.usefixtures("milter")
@pytest.mark.parametrize("relay", mtas.MTAS)
def test_who_is_not_in_the_networks_may_not_relay(world: World, relay: str) -> None:
    with mtas.relay(relay, world.relay, "198.51.100.11", "2001:db8:0:11::/64"):
        for family in (0, 1):
            refused = send(world.web2, RELAY.addresses[family], recipients=["somebody@outside.example"])
            assert refused.code in (550, 554)


def policy(folder: Path, messages: int, window_s: float) -> str:
    return (f'relay = "relay"\nsocket = "inet:8892@127.0.0.1"\nexchange = "sqlite:{folder}/exchange.db"\n'
            f'state = "{folder}/state"\n'
            f"[limits]\nmessages = {messages}\nwindow_s = {window_s}\n")


def client_of(family: int) -> str:
    return ("198.51.100.11", "2001:db8:0:11::/64")[family]
