"""Delivers alerts: one function a channel, each with a deadline for the whole of it."""

import http.client
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from email.message import EmailMessage
from email.utils import formatdate
from urllib.parse import urlsplit

from egressguard.core.alerts import Alert, clean
from egressguard.core.errors import EgressguardError
from egressguard.core.notify_settings import Notify

STEP_S, WHOLE_S = 15.0, 45.0
KILL_GRACE_S = 2.0


class NotDelivered(EgressguardError):
    """Nobody took it; the text says who did not, and why."""


def deliver(channel: str, alert: Alert, number: int, router: str, notify: Notify) -> None:
    """Delivers `alert` by one channel. Raises NotDelivered."""
    channels: dict[str, Callable[[], None]] = {
        "mail": lambda: _mail(mail_of(alert, number, router, notify), notify),
        "webhook": lambda: _webhook(document_of(alert, number, router), notify.webhook),
        "command": lambda: _command(document_of(alert, number, router), notify.command)}
    try:
        channels[channel]()
    except (OSError, smtplib.SMTPException, http.client.HTTPException, subprocess.SubprocessError) as error:
        raise NotDelivered(f"{channel}: {clean(error) or type(error).__name__}") from error
    except KeyError:
        raise NotDelivered(f"{channel}: is not configured any more") from None


def mail_of(alert: Alert, number: int, router: str, notify: Notify) -> EmailMessage:
    """The alert as a mail; whoever gets it twice recognises it by its Message-ID."""
    mail = EmailMessage()
    mail["From"], mail["To"] = notify.mail_from, ", ".join(notify.mail_to)
    mail["Subject"] = f"[egressguard] {clean(alert.title)}"
    mail["Date"] = formatdate(localtime=True)
    made = "".join(c for c in alert.at if c.isascii() and c.isalnum())[:40]
    mail["Message-ID"] = f"<{made}.{number}.{alert.kind}@{_domain(router)}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Egressguard-Kind"] = alert.kind
    mail.set_content(alert.text, cte="quoted-printable")
    return mail


def _domain(router: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in router) or "router"


def document_of(alert: Alert, number: int, router: str) -> bytes:
    """The alert as a JSON object: that of core.alerts.Alert, with its number and the router."""
    return json.dumps({"version": 1, "number": number, "router": router, **asdict(alert)}).encode()


@contextmanager
def _deadline(hang_up: Callable[[], None]) -> Iterator[None]:
    """A server that sends a byte now and then would outlast every timeout of a single step."""
    timer = threading.Timer(WHOLE_S, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _mail(mail: EmailMessage, notify: Notify) -> None:
    client = smtplib.SMTP(timeout=STEP_S)
    with _deadline(lambda: _shut(client.sock)):
        try:
            client.connect(notify.mail_server, notify.mail_port)
            client.ehlo_or_helo_if_needed()
            if client.has_extn("starttls"):
                # Encrypted where it is offered; the address names the server, a certificate does not.
                client.starttls(context=_unchecked())
                client.ehlo()
            refused = client.send_message(mail)
            if refused:
                raise NotDelivered(f"mail: refused for {', '.join(map(clean, refused))}")
            with suppress(smtplib.SMTPException, OSError):
                client.quit()
        finally:
            client.close()


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _webhook(document: bytes, url: str) -> None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=STEP_S)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with _deadline(lambda: _shut(connection.sock)):
        try:
            connection.request("POST", path, document, {"Content-Type": "application/json",
                                                        "User-Agent": "egressguard"})
            answer = connection.getresponse()
            answer.read(10_000)
        finally:
            connection.close()
    if not 200 <= answer.status < 300:
        raise NotDelivered(f"webhook: the answer was {answer.status} {clean(answer.reason, 80)}")


def _command(document: bytes, command: tuple[str, ...]) -> None:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, start_new_session=True, cwd="/")
    try:
        _, said = process.communicate(document, timeout=WHOLE_S)
    except subprocess.TimeoutExpired:
        raise NotDelivered(f"command: {command[0]} took longer than {WHOLE_S:.0f} s") from None
    finally:
        # Whatever it has started ends with it, or the next delivery would wait for its pipes.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(KILL_GRACE_S)
    if process.returncode != 0:
        words = clean(said.decode(errors="replace").strip())
        raise NotDelivered(f"command: {command[0]} ended with {process.returncode}: {words}")
