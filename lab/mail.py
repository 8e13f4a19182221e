"""A client that sends one message and takes no for an answer: the first refusal is the reply."""

import smtplib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lab.host import Host

SMTP = 25


class Reply(NamedTuple):
    """What the server said. Code 0: nothing; then the text is what the network did instead."""

    code: int
    text: str

    @property
    def accepted(self) -> bool:
        """Whether the message is now the server's."""
        return self.code == 250


class _Refused(Exception):
    def __init__(self, code: int, text: bytes) -> None:
        super().__init__(code)
        self.reply = Reply(code, text.decode(errors="replace"))


def send(
    namespace: Host,
    server: str,
    *,
    recipients: Sequence[str],
    sender: str = "app@web.example",
    subject: str = "lab",
    source: str | None = None,
    port: int = SMTP,
    timeout_s: float = 30.0,
) -> Reply:
    """Sends a message from a namespace, from the address `source` if it has several.

    `timeout_s` bounds the connection and each reply.
    """

    def dialogue() -> Reply:
        origin = (source, 0) if source else None
        client = smtplib.SMTP(
            local_hostname=f"{namespace.label}.example", timeout=timeout_s, source_address=origin
        )
        try:
            return _transaction(client, server, port, sender, recipients, subject)
        except _Refused as refused:
            return refused.reply
        except smtplib.SMTPResponseException as error:
            text = error.smtp_error
            return Reply(error.smtp_code, text if isinstance(text, str) else text.decode(errors="replace"))
        except (OSError, smtplib.SMTPException) as error:
            return Reply(0, f"{type(error).__name__}: {error}")
        finally:
            client.close()

    return namespace.call(dialogue)


def send_burst(
    namespace: Host,
    server: str,
    count: int,
    *,
    parallel: int = 1,
    recipients: Sequence[str],
    sender: str = "app@web.example",
    subject: str = "lab",
    source: str | None = None,
    port: int = SMTP,
    timeout_s: float = 30.0,
) -> list[Reply]:
    """Sends `count` messages, each on a connection of its own, `parallel` at a time."""

    def one(number: int) -> Reply:
        return send(
            namespace,
            server,
            recipients=recipients,
            sender=sender,
            subject=f"{subject} {number}",
            source=source,
            port=port,
            timeout_s=timeout_s,
        )

    with ThreadPoolExecutor(parallel) as senders:
        return list(senders.map(one, range(count)))


def _transaction(
    client: smtplib.SMTP,
    server: str,
    port: int,
    sender: str,
    recipients: Sequence[str],
    subject: str,
) -> Reply:
    _take(client.connect(server, port), 220)
    _take(client.ehlo(), 250)
    _take(client.mail(sender), 250)
    for recipient in recipients:
        _take(client.rcpt(recipient), 250)
    message = f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nSubject: {subject}\r\n\r\nlab\r\n"
    code, text = _take(client.data(message), 250)
    client.quit()
    return Reply(code, text.decode(errors="replace"))


def _take(reply: tuple[int, bytes], wanted: int) -> tuple[int, bytes]:
    if reply[0] != wanted:
        raise _Refused(*reply)
    return reply
