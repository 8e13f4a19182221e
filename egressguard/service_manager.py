"""Tells systemd how the service is: the sd_notify protocol, one datagram per message (sd_notify(3)).

Ten lines here instead of a dependency: the protocol is documented as stable for exactly that use.
"""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Sends `state` ("READY=1", "WATCHDOG=1", …) to the service manager; does nothing without one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    # A manager that has gone, or does not read, must not stop what stands in the packet and mail path.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s, suppress(OSError):
        s.sendto(state.encode(), socket.MSG_DONTWAIT, address)
