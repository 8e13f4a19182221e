"""A network namespace without a name lives as long as somebody holds it, so no crash leaves one behind."""

import ctypes
import os

from egressguard.core.errors import KernelError

CLONE_NEWNET = 0x40000000
HERE = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def current() -> int:
    """A descriptor of this thread's namespace; it holds it."""
    return os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)


def leave_for_new() -> int:
    """Makes a namespace, enters it, and returns its descriptor."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise KernelError(f"making a network namespace: {os.strerror(ctypes.get_errno())}")
    return current()


def enter(descriptor: int) -> None:
    """Moves this thread into the namespace (os.setns came with Python 3.12)."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise KernelError(f"entering a network namespace: {os.strerror(ctypes.get_errno())}")
