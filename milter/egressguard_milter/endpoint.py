"""Where the milter listens: one address, never all of them by accident, and never another's socket.

A port is named `inet:PORT@HOST`, as in sendmail; without a host every address would be bound, and whoever
reaches a milter's port can spend any client's quota.
"""

import fcntl
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from egressguard.core.errors import EgressguardError

EXPECTED = "write inet:PORT@HOST (for example inet:8892@127.0.0.1) or unix:/absolute/path"
BACKLOG = 1024  # many clients may arrive at once
KEEP_ALIVE_S = (60, 10, 3)  # asked for after so long a silence, then so often, so many times
UNIX_PATH_LENGTH = 107  # sun_path of unix(7), less its final zero


class ListenError(EgressguardError):
    """The milter's socket could not be had: in use, not permitted, or not ours."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed `socket`: either a path, or a host (an address) and a port."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    @property
    def connection(self) -> str:
        """As sendmail writes it."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"inet6:{self.port}@{self.host}" if ":" in self.host else f"inet:{self.port}@{self.host}"


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint in `text`. Raises ValueError with what would be right."""
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local"):
        if not rest.startswith("/") or len(os.fsencode(rest)) > UNIX_PATH_LENGTH:
            raise ValueError(f"{text!r}: the path must be absolute and at most {UNIX_PATH_LENGTH} "
                             f"bytes long; {EXPECTED}")
        return Endpoint(path=Path(rest))
    if kind not in ("inet", "inet6"):
        raise ValueError(f"{text!r}: {EXPECTED}")
    port, at, host = rest.partition("@")
    if not at:
        raise ValueError(f"{text!r} names no host"
                         + (", it would listen on every address" if rest.isdigit() else
                            " (host:port is Postfix's order)") + f"; {EXPECTED}")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port must be 1 to 65535; {EXPECTED}")
    return Endpoint(host=_address(text, host), port=int(port))


def _address(text: str, host: str) -> str:
    """A name could resolve to another address tomorrow, so only `localhost` is one."""
    try:
        return str(ip_address("127.0.0.1" if host == "localhost" else host.strip("[]")))
    except ValueError:
        raise ValueError(f"{text!r}: the host must be an IP address; {EXPECTED}") from None


def listen(endpoint: Endpoint) -> socket.socket:
    """A socket that listens on `endpoint` from now on, with nobody else there as long as this process lives.

    Raises ListenError. A unix socket has the rights that the umask leaves.
    """
    try:
        if endpoint.path is not None:
            _claim_path(endpoint.path)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(endpoint.path))
        else:
            listener = socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _keep_alive(listener)
            listener.bind((endpoint.host, endpoint.port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise ListenError(f"cannot listen on {endpoint.connection}: {error.strerror}") from error
    return listener


def _keep_alive(listener: socket.socket) -> None:
    """Of a machine that lost its power nothing is heard, and its clients' connections would count for hours.

    What a listener has, the connections that it takes have, too.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    for option, value in zip(options, KEEP_ALIVE_S, strict=True):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)


def _claim_path(path: Path) -> None:
    """Locks a file beside `path`; the descriptor is never closed, so the lock ends with the process.

    Without it, whoever removes a path that was left behind could take a live one from its owner.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ListenError(f"cannot listen on unix:{path}: another egressguard-milter "
                          "serves it already") from None
    if os.path.lexists(path):
        _remove_stale(path)


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ListenError(f"cannot listen on unix:{path}: it exists and is not a socket")
    path.unlink()


def watched(endpoint: Endpoint) -> Callable[[], str]:
    """Says, whenever it is called, whether nobody finds the socket any more that is there now; empty: no."""
    path = endpoint.path
    ours = path.lstat().st_ino if path is not None else 0

    def fault() -> str:
        try:
            found = path is None or path.lstat().st_ino == ours
        except OSError:
            found = False
        return "" if found else f"no MTA finds the socket: {path} is gone or another's; start again"

    return fault
