"""A network namespace without a name lives as long as somebody holds it, so no crash leaves one behind.

The daemon has no CAP_SYS_ADMIN. Without it the kernel gives a network namespace only together with a user
namespace, and nobody comes back from that: so who enters is a process of its own, and what the namespace is
wanted for, a descriptor of it and a socket that was opened in it, comes back over another socket.
"""

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from egressguard.core.errors import EgressguardError, KernelError

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
HERE = "/proc/thread-self/ns/net"
LONGEST_ANSWER = 60_000  # a pipe holds 64 KiB, and nobody reads before the end

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(what_for: str) -> None:
    """Moves this process into a network namespace of its own; it cannot come back. Raises KernelError."""
    if _libc.unshare(CLONE_NEWNET) != 0 and _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(f"{what_for} needs a network namespace of its own: {reason}; allow user namespaces "
                          "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces), or give the "
                          "service CAP_SYS_ADMIN (docs/install.md)")


def answer_elsewhere(what_for: str, work: Callable[[], str]) -> str:
    """What `work` answers in an empty network namespace, in a process that ends at once and leaves nothing;
    what it raises comes as text. Empty when the process died.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _answer(writer, what_for, work)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def _answer(writer: int, what_for: str, work: Callable[[], str]) -> None:
    """Never returns: nothing of the parent's clean-up may run twice."""
    try:
        unshare(what_for)
        answer = work()
    except EgressguardError as error:
        answer = str(error)
    except BaseException as error:
        answer = f"{what_for}: {error!r}"
    try:
        os.write(writer, answer.encode()[:LONGEST_ANSWER])
    finally:
        os._exit(0)


class Away:
    """A network namespace with a process in it, for as long as the `with` block lasts.

    `descriptor` is the namespace's. `work` is what the process does there, once, when `visit` is called.
    """

    def __init__(self, what_for: str, work: Callable[[], socket.socket]) -> None:
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._here.close()
            _stay(there, what_for, work, parent)
        there.close()
        try:
            self.descriptor = self._receive()
        except BaseException:
            self._end()
            raise

    def visit(self) -> socket.socket:
        """The socket that `work` has opened in there. Raises KernelError with what went wrong."""
        self._here.send(b"go")
        return socket.socket(fileno=self._receive())

    def _receive(self) -> int:
        text, descriptors, _, _ = socket.recv_fds(self._here, 1000, 1)
        if not descriptors:
            raise KernelError(text.decode() or "the process in another network namespace died")
        return descriptors[0]

    def _end(self) -> None:
        self._here.close()
        os.waitpid(self._pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self.descriptor)
        self._end()


def _stay(wire: socket.socket, what_for: str, work: Callable[[], socket.socket], parent: int) -> None:
    """The process in there. Never returns: nothing of the parent's clean-up may run twice."""
    try:
        unshare(what_for)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after unshare, which may take it away
        if os.getppid() == parent:
            _serve(wire, work)
    except KernelError as error:
        wire.send(str(error).encode())
    except BaseException as error:
        wire.send(f"{what_for}: {error!r}".encode())
    finally:
        os._exit(0)


def _serve(wire: socket.socket, work: Callable[[], socket.socket]) -> None:
    here = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
    socket.send_fds(wire, [b"in"], [here])
    os.close(here)
    if wire.recv(2):
        with work() as made:
            socket.send_fds(wire, [b"made"], [made.fileno()])
        wire.recv(1)  # until the other side closes
