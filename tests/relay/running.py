"""A relay that really runs: egressguard-milter and Postfix in a namespace, and clients that send to it."""

import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egressguard.core.documents import Bulletin, Origin, Report
from egressguard.core.errors import ExchangeError
from egressguard.core.hosts import Host
from egressguard.core.verdict import State
from egressguard.exchange import open_exchange
from lab.namespaces import LabError, Namespace, wait_until
from lab.postfix import Postfix

COMMAND = Path(sys.executable).parent / "egressguard-milter"
MILTER_PORT = 8892
SINK_PORT = 2525
# Clients are addresses on the relay's own loopback interface, each of the IPv6 ones in its own /64.
CLIENTS = [f"192.0.2.{n}" for n in range(1, 60)] + [f"2001:db8:0:{n}::{m}"
                                                      for n in range(1, 20) for m in (1, 2)]

REFUSED_DOMAIN = "refused.example"  # the relay itself takes no recipient there
STRANGER = "198.51.100.1"  # may connect, but may not relay


class Milter:
    """One egressguard-milter process and what it wrote to stderr."""

    def __init__(self, namespace: Namespace, folder: Path, policy: str,
                 environment: Mapping[str, str] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        config, self._log = folder / "policy.toml", folder / "stderr"
        config.write_text(policy)
        with self._log.open("w") as log:
            self.process: subprocess.Popen[Any] = namespace.popen(
                [COMMAND, "run", "--config", config], stderr=log, env=environment)

    @property
    def log(self) -> str:
        """Its stderr so far."""
        return self._log.read_text()

    def wait_for_log(self, text: str, *, count: int = 1) -> None:
        """Returns once `text` was logged `count` times."""
        try:
            wait_until(lambda: self.log.count(text) >= count, repr(text))
        except LabError as error:
            raise LabError(f"{error}\n{self.log}") from error


@dataclass
class Client:
    """Sends messages from one address, over one connection or many."""

    namespace: Namespace
    address: str
    replies: list[tuple[int, str]] = field(default_factory=list)

    def connect(self) -> smtplib.SMTP:
        """A new connection to the relay; it stays in the namespace wherever it is used."""
        server = "::1" if ":" in self.address else "127.0.0.1"
        smtp: smtplib.SMTP = self.namespace.call(
            lambda: smtplib.SMTP(server, 25, timeout=60, source_address=(self.address, 0)))
        smtp.ehlo("client.example")
        return smtp

    def send(self, count: int = 1) -> list[int]:
        """The reply codes of `count` messages, each sent over its own connection."""
        codes = []
        for _ in range(count):
            with self.connect() as smtp:
                codes.append(self.send_over(smtp))
        return codes

    def send_over(self, smtp: smtplib.SMTP) -> int:
        """The reply code of one message on an open connection: at MAIL if refused, else at its end."""
        code, text = smtp.mail("sender@inside.example")
        if code == 250:
            smtp.rcpt("somebody@outside.example")
            code, text = smtp.data(b"Subject: test\r\n\r\nThis is one.\r\n")
        else:
            smtp.rset()
        self.replies.append((code, text.decode()))
        return code


def send_together(clients: Iterable[Client]) -> list[int]:
    """The reply codes of one message from each client, all sent at the same time."""
    connections = [(client, client.connect()) for client in clients]
    barrier, codes = threading.Barrier(len(connections)), []

    def send(client: Client, smtp: smtplib.SMTP) -> None:
        barrier.wait()
        codes.append(client.send_over(smtp))
        smtp.quit()

    threads = [threading.Thread(target=send, args=pair) for pair in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


class Relay:
    """A namespace with Postfix and a sink behind it; each test runs its own milter beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.delivered = folder, folder / "delivered"
        self.delivered.mkdir()
        self.namespace = Namespace("relay")
        try:
            self.namespace.ip(*(f"addr add {a} dev lo" for a in [*CLIENTS, STRANGER]))
            self.namespace.popen(["smtp-sink", "-u", "root", "-d", f"{self.delivered}/%Y%m%d%H%M%S.",
                                  f"127.0.0.1:{SINK_PORT}", "100"])
            wait_until(lambda: self.namespace.listens(SINK_PORT, ipv6=False), "smtp-sink")
            self.postfix = Postfix(
                self.namespace, milter=MILTER_PORT,
                networks=("127.0.0.0/8", "192.0.2.0/24", "[2001:db8::]/32"),
                settings={"default_transport": f"smtp:[127.0.0.1]:{SINK_PORT}",
                          "smtpd_authorized_xclient_hosts": "127.0.0.1",
                          "smtpd_recipient_restrictions":
                              f"check_recipient_access inline:{{{REFUSED_DOMAIN}=REJECT}}"})
        except BaseException:
            self.namespace.close()
            raise

    def close(self) -> None:
        """Leaves nothing behind."""
        self.postfix.close()
        self.namespace.close()

    def client(self, address: str) -> Client:
        """A client with this address."""
        return Client(self.namespace, address)

    def delivered_count(self) -> int:
        """How many messages have arrived behind the relay."""
        return len(list(self.delivered.iterdir()))


class Site:
    """One test's milter, exchange and router beside the shared relay."""

    def __init__(self, relay: Relay, folder: Path) -> None:
        self.relay, self.folder = relay, folder
        self.exchange_path = folder / "exchange.db"
        self._running: list[Milter] = []
        self._sequence = 0

    def policy(self, messages: int, more: str = "", *, window_s: float = 600.0) -> str:
        """A policy file's text; `more` are top level keys."""
        return (f'relay = "relay"\nsocket = "inet:{MILTER_PORT}@127.0.0.1"\n'
                f'exchange = "sqlite:{self.exchange_path}"\nstate = "{self.folder}/state"\n{more}\n'
                f"[limits]\nmessages = {messages}\nwindow_s = {window_s}\n")

    def run(self, messages: int, more: str = "", *, window_s: float = 600.0) -> Milter:
        """A milter with this base limit, running."""
        milter = self.start(self.policy(messages, more, window_s=window_s))
        milter.wait_for_log("event=started")
        return milter

    def start(self, policy: str, environment: Mapping[str, str] | None = None) -> Milter:
        """A milter with this policy, started, whatever becomes of it."""
        folder = self.folder / f"milter-{len(self._running)}"
        milter = Milter(self.relay.namespace, folder, policy, environment)
        self._running.append(milter)
        return milter

    def publish(self, lifetime_s: float, **verdicts: State) -> None:
        """A router's bulletin; `h7=…` is 192.0.2.7."""
        self._sequence += 1
        exchange = open_exchange(f"sqlite:{self.exchange_path}")
        exchange.publish(Bulletin(Origin("router", 1, self._sequence), lifetime_s,
                                  {Host(f"192.0.2.{h[1:]}"): v for h, v in verdicts.items()}))
        exchange.close()

    def report(self) -> Report | None:
        """The relay's newest report; None without one."""
        with suppress(ExchangeError):
            exchange = open_exchange(f"sqlite:{self.exchange_path}")
            reports = exchange.reports()
            exchange.close()
            return reports[0] if reports else None
        return None

    def close(self) -> None:
        """Ends every milter of this test."""
        for milter in self._running:
            milter.process.kill()
            milter.process.wait()
