"""Tells systemd how the service is: the sd_notify protocol, one datagram per message (sd_notify(3)).

Ten lines here instead of a dependency: the protocol is documented as stable for exactly that use.
"""

import os
import socket


def notify(state: str) -> None:
    """Sends `state` ("READY=1", "WATCHDOG=1", …) to the service manager; does nothing without one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        s.sendto(state.encode(), address)
