"""A listener for connections that would be refused: who completes a handshake owns the address, or its wire.

rules/redirect.nft leads a few of each host's connections here, and bounds them. Nothing is read; every client
is told to come later. The kernel completes handshakes by itself, so looking once a round is enough.
"""

import logging
import socket
import struct
from dataclasses import dataclass

from egressguard.core.errors import KernelError
from egressguard.core.hosts import canonical_address
from egressguard.core.path_settings import Sinkhole

log = logging.getLogger(__name__)

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and the same number for IPv6
BACKLOG = 64
MOST_AT_ONCE = 256
ANSWER = b"421 4.7.1 direct mail is not permitted here; send it through the relay\r\n"
ANYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


@dataclass(frozen=True, slots=True)
class Proof:
    """A handshake that was completed: by which address, towards which destination."""

    source: str
    destination: str


class Listener:
    """Listens while it is configured, in the network namespace of this thread."""

    def __init__(self) -> None:
        self._port = 0
        self._sockets: list[socket.socket] = []

    def proofs(self, sinkhole: Sinkhole) -> list[Proof]:
        """The handshakes completed since the last call. Raises KernelError when it cannot listen."""
        port = sinkhole.port if sinkhole.enabled else 0
        if port != self._port:
            self.close()
            self._listen(port)
        found = [proof for listening in self._sockets for proof in _accepted(listening)]
        for proof in found:
            log.info("handshake source=%s destination=%s", proof.source, proof.destination)
        return found

    def close(self) -> None:
        """Listens no more."""
        for listening in self._sockets:
            listening.close()
        self._sockets, self._port = [], 0

    def _listen(self, port: int) -> None:
        try:
            for family, address in ANYWHERE.items() if port else ():
                self._sockets.append(_listening(family, address, port))
        except OSError as error:
            self.close()
            raise KernelError(f"sinkhole: listening on port {port}: {error.strerror}") from error
        self._port = port


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _accepted(listening: socket.socket) -> list[Proof]:
    found = []
    for _ in range(MOST_AT_ONCE):
        try:
            connection, peer = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            break
        with connection:
            destination = _original_destination(connection)
            if destination != connection.getsockname()[0]:  # not led here, but addressed to us
                found.append(Proof(str(canonical_address(peer[0])), destination))
            _dismiss(connection)
    return found


def _dismiss(connection: socket.socket) -> None:
    connection.setblocking(False)
    try:
        connection.send(ANSWER)
    except OSError:
        log.debug("handshake: the client was gone before the answer")


def _original_destination(connection: socket.socket) -> str:
    if connection.family == socket.AF_INET6:
        raw = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, struct.unpack_from("16s", raw, 8)[0])
    raw = connection.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
    return socket.inet_ntop(socket.AF_INET, raw[4:8])
