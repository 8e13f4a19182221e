"""A host's /dev/log: keeps every line that a program says to syslog."""

import re
import socket
import threading
from pathlib import Path

PRIORITY = re.compile(r"^<\d+>")
LONGEST = 65536


class Syslog:
    """Listens on the unix socket `path`, from construction to close()."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, name="syslog", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """Everything said so far, a line each."""
        return "".join(f"{line}\n" for line in list(self._lines))

    def _read(self) -> None:
        # An empty datagram is close() speaking: nobody else sends one.
        while data := self._socket.recv(LONGEST):
            self._lines.append(PRIORITY.sub("", data.decode(errors="replace")).rstrip("\0\n"))

    def close(self) -> None:
        """Stops listening; the text stays readable."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.connect(self._socket.getsockname())
            waker.send(b"")
        self._thread.join()
        self._socket.close()
