"""Who changed the ruleset: the kernel's generation events, which carry pid and program of every change.

An event is a hint to look now, never the truth: multicast can overflow, and a comparison cannot.
"""

import errno
import socket
from dataclasses import dataclass

from egressguard.core.errors import KernelError
from egressguard.kernel.netlink import NETLINK_NETFILTER, attributes, messages, text

NFNLGRP_NFTABLES = 7
MESSAGE_NEWGEN = 10 << 8 | 15
GENERATION_ID, PROCESS_ID, PROCESS_NAME = 1, 2, 3
BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Culprit:
    """The program that changed the ruleset, as the kernel names it, and the generation that it made.

    The pid is the kernel's own: in a container it is not the one that the container sees.
    """

    program: str
    pid: int
    generation: int = 0

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


class RulesetEvents:
    """A socket that becomes readable whenever anybody changes a ruleset of this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                     NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise KernelError(f"listening to ruleset events: {error.strerror}") from error

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stops listening."""
        self._socket.close()

    def culprits(self) -> list[Culprit]:
        """Who changed something since the last call, oldest first; what overflowed is missing."""
        found: list[Culprit] = []
        while True:
            try:
                data = memoryview(self._socket.recv(1 << 16))
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise KernelError(f"listening to ruleset events: {error.strerror}") from error
            found += [_culprit(payload) for kind, payload in messages(data) if kind == MESSAGE_NEWGEN]


def _culprit(payload: memoryview) -> Culprit:
    found = dict(attributes(payload))
    numbers = (int.from_bytes(found[kind], "big") for kind in (PROCESS_ID, GENERATION_ID))
    return Culprit(text(found[PROCESS_NAME]), *numbers)
