"""Clients that log in at a real MTA: a login has one budget, whatever address it comes from."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import LabError, Namespace
from lab.sasl import write_logins
from lab.sink import Sink
from tests.relay import mtas
from tests.relay.running import Milter

LOGINS = {"alice": "secret-of-alice", "bob": "secret-of-bob"}
SINK_PORT = 2525
POLICY = """
socket = "inet:8892@127.0.0.1"
exchange = "sqlite:{folder}/exchange.db"
state = "{folder}/state"
[limits]
messages = 100
[login_limits]
messages = 2
[[login]]
match = ["bob"]
messages = 3
"""
SENDMAIL = """\
define(`confAUTH_MECHANISMS', `PLAIN LOGIN')dnl
TRUST_AUTH_MECH(`PLAIN LOGIN')dnl
INPUT_MAIL_FILTER("""


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that an MTA's unprivileged processes can reach; pytest's own is root's alone."""
    with tempfile.TemporaryDirectory(prefix="eg-sasl-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


SETTINGS = {"sendmail": {"INPUT_MAIL_FILTER(": SENDMAIL},
            "postfix": {"smtpd_sasl_auth_enable": "yes", "smtpd_sasl_local_domain": "relay.example"}}


def swaks(namespace: Namespace, address: str, login: str = "", password: str = "") -> str:
    """The last reply to one message, with its code."""
    words = ["swaks", "--server", "127.0.0.1", "--local-interface", address, "--helo", "client.example",
             "--from", "sender@inside.example", "--to", "somebody@outside.example"]
    if login:
        words += ["--auth", "PLAIN", "--auth-user", login, "--auth-password", password or LOGINS[login]]
    try:
        talk = namespace.run(words).stdout
    except LabError as error:  # swaks was refused something, and says what
        talk = str(error)
    replies = [line[4:] for line in talk.splitlines() if line[:3] in ("<- ", "<**")]
    return [reply for reply in replies if not reply.startswith("221")][-1]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("mta", mtas.MTAS)
def test_a_login_has_one_budget_wherever_it_comes_from(mta: str, tmp_path: Path, readable: Path) -> None:
    sasl = write_logins(readable / "sasl", "relay.example", LOGINS, "postfix" if mta == "postfix" else "root")
    with Namespace("relay") as namespace, Sink(namespace, port=SINK_PORT):
        namespace.ip(*(f"addr add 192.0.2.{n} dev lo" for n in (1, 2, 3)))
        milter = Milter(namespace, tmp_path / "milter", POLICY.format(folder=tmp_path))
        milter.wait_for_log("event=started")
        with mtas.relay(mta, namespace, "192.0.2.0/24", next_hop="127.0.0.1", port=SINK_PORT,
                        settings=SETTINGS[mta], sasl=sasl):
            assert swaks(namespace, "192.0.2.1", "alice", "wrong")[:3] == "535"
            assert [swaks(namespace, f"192.0.2.{n}", "alice")[:3] for n in (1, 2)] == ["250", "250"]
            refusal = swaks(namespace, "192.0.2.3", "alice")
            assert refusal.startswith("451 4.3.2 login alice")
            assert "is over its limit of 2 messages" in refusal
            assert [swaks(namespace, "192.0.2.1", "bob")[:3] for _ in range(4)] == ["250", "250", "250", "451"]
            assert swaks(namespace, "192.0.2.1")[:3] == "250", "without a login only the address counts"
        milter.process.kill()
        milter.process.wait()
