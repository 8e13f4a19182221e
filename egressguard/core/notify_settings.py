"""Where alerts go: the part `[notify]` of the router's configuration."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from egressguard.core.errors import Mistake

ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
On = Literal["verdict", "exposure", "overflow", "canary", "exchange"]


@dataclass(frozen=True, slots=True)
class Notify:
    """What is told (`on`; verdicts from `verdicts_from` on), and where: by mail through `mail_server`, to a
    webhook, to a command on its standard input. The same is told once in `repeat_s`, and not more than
    `most_per_hour` in all.
    """

    on: tuple[On, ...] = ("verdict", "exposure", "overflow", "canary", "exchange")
    verdicts_from: Literal["suspect", "compromised"] = "compromised"
    mail_to: tuple[str, ...] = ()
    mail_from: str = ""
    mail_server: str = ""
    mail_port: int = 25
    webhook: str = ""
    command: tuple[str, ...] = ()
    repeat_s: float = 3600.0
    most_per_hour: int = 30

    def channels(self) -> tuple[str, ...]:
        """The configured channels."""
        return tuple(name for name, there in (("mail", self.mail_to), ("webhook", self.webhook),
                                              ("command", self.command)) if there)


def notify_mistakes(notify: Notify) -> Iterator[Mistake]:
    """Everything wrong with it."""
    yield from _mail_mistakes(notify)
    if notify.webhook:
        yield from _webhook_mistakes(notify.webhook)
    if notify.command and not notify.command[0].startswith("/"):
        yield Mistake("notify.command", f"{notify.command[0][:80]!r}: begin with the program's absolute path",
                      needs=("notify.command",))
    if any("\0" in part for part in notify.command):
        yield Mistake("notify.command", "has a NUL character")
    if not 60 <= notify.repeat_s <= 7 * 86400:
        yield Mistake("notify.repeat_s", f"{notify.repeat_s} is out of range: 60 to {7 * 86400}")
    if not 1 <= notify.most_per_hour <= 10_000:
        yield Mistake("notify.most_per_hour", f"{notify.most_per_hour} is out of range: 1 to 10000")


def _mail_mistakes(notify: Notify) -> Iterator[Mistake]:
    senders = (notify.mail_from,) if notify.mail_from else ()
    for key, text in (*(("mail_to", to) for to in notify.mail_to), *(("mail_from", s) for s in senders)):
        if not ADDRESS.fullmatch(text):
            yield Mistake(f"notify.{key}", f"{text[:80]!r} is no mail address; write one such as "
                          "noc@example.org")
    if notify.mail_to and not notify.mail_from:
        yield Mistake("notify.mail_from", "is missing: who the mail is from, such as egressguard@example.org")
    if notify.mail_to or notify.mail_server:
        try:
            ip_address(notify.mail_server)
        except ValueError:
            yield Mistake("notify.mail_server", f"{notify.mail_server[:80]!r} is no address: write your mail "
                          "server's, such as 192.0.2.20 (a name would make alerts wait for the DNS)")
    if not 0 < notify.mail_port < 65536:
        yield Mistake("notify.mail_port", f"{notify.mail_port} is no port: 1 to 65535")


def _webhook_mistakes(url: str) -> Iterator[Mistake]:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or any(c.isspace() or not c.isprintable() for c in url):
        yield Mistake("notify.webhook", f"{url[:80]!r} is no address; write http:// or https:// and a host")
