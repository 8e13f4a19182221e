"""Where the Internet's mail ends: Postfix's own smtp-sink, and a reader of what it received."""

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.closing import Closing
from lab.namespaces import LabError, Namespace, end, wait_until
from lab.postfix import OWNER

PORT = 25
BACKLOG = "128"
MOST_CONNECTIONS = "512"
LISTENERS = {"4": "0.0.0.0", "6": "[::]"}


@dataclass(frozen=True)
class Received:
    """One message as it arrived."""

    client: str
    helo: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str


class Sink(Closing):
    """Accepts all mail to every address of a namespace, from construction to close()."""

    def __init__(self, namespace: Namespace, *, port: int = PORT) -> None:
        self.namespace = namespace
        self.folder = Path(tempfile.mkdtemp(prefix="eg-sink-"))
        self._processes: list[subprocess.Popen[Any]] = []
        try:
            # smtp-sink does not stay root; the folder must belong to whom it becomes.
            os.chown(self.folder, _owner(), -1)
            for family, address in LISTENERS.items():
                self._processes.append(self._listen(family, f"{address}:{port}"))
            namespace.wait_until_listening(port)
        except BaseException:
            self.close()
            raise

    def _listen(self, family: str, endpoint: str) -> subprocess.Popen[Any]:
        # One process per family: a single one takes the first address family it can bind only.
        dump = f"{self.folder}/{family}-%Y%m%d%H%M%S."
        return self.namespace.popen([
            "smtp-sink", f"-{family}", "-u", OWNER, "-m", MOST_CONNECTIONS, "-d", dump, endpoint, BACKLOG,
        ])  # fmt: skip

    def messages(self) -> list[Received]:
        """What was received completely, in no order that means anything."""
        texts = (path.read_text(errors="replace") for path in sorted(self.folder.iterdir()))
        # A file is empty until its message is complete: smtp-sink writes what is small at once.
        return [_received(text) for text in texts if text]

    def wait_for(self, count: int, *, timeout_s: float | None = None) -> list[Received]:
        """The messages, once there are `count`. Raises LabError after `timeout_s`."""
        wait_until(
            lambda: len(self.messages()) >= count, f"{count} messages in the sink", timeout_s=timeout_s
        )
        return self.messages()

    def close(self) -> None:
        """Ends the listeners and forgets the messages."""
        for process in self._processes:
            end(process)
        shutil.rmtree(self.folder, ignore_errors=True)


def _owner() -> int:
    try:
        return pwd.getpwnam(OWNER).pw_uid
    except KeyError as error:
        raise LabError(f"{error}: install Postfix (script/bootstrap lab)") from None


def _received(text: str) -> Received:
    """Parses smtp-sink's dump: the envelope as X- lines above the message."""
    head = text.partition("\n\n")[0].splitlines()

    def fields(name: str) -> list[str]:
        return [line.partition(": ")[2] for line in head if line.startswith(f"{name}: ")]

    def first(name: str) -> str:
        return next(iter(fields(name)), "")

    return Received(
        client=first("X-Client-Addr").removeprefix("ipv6:"),
        helo=first("X-Helo-Args"),
        sender=_mailbox(first("X-Mail-Args")),
        recipients=tuple(map(_mailbox, fields("X-Rcpt-Args"))),
        subject=first("Subject"),
        text=text,
    )


def _mailbox(arguments: str) -> str:
    """The address in `<address> SIZE=1`."""
    return arguments.partition("<")[2].partition(">")[0]
