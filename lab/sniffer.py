"""What was on the wire, decided by the wire: packets seen at an interface, none missed unnoticed.

The kernel's filter chooses; a packet that it had to drop for lack of room raises SnifferOverflow.
"""

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable

from lab.closing import Closing
from lab.filters import Direction, syn_filter, tcp_filter
from lab.namespaces import LabError, Namespace, wait_until
from lab.packets import Packet, parse

# <linux/if_packet.h>, <asm-generic/socket.h>
SOL_PACKET = 263
PACKET_STATISTICS = 6
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33

# Each small packet is charged about 1 KB: room for a quarter of a million that were not read yet.
BUFFER_BYTES = 256 << 20
# A whole frame: a TCP header may stand behind a kilobyte of extension headers.
SNAP_BYTES = 2048
QUIET_S = 0.05


class SnifferOverflow(LabError):
    """The sniffer missed packets, so what it saw proves nothing."""


class Capture(Closing):
    """A packet socket in a namespace, bound, with its filter, counting from construction on."""

    def __init__(self, namespace: Namespace, interface: str, program: bytes) -> None:
        self.interface = interface
        self._seen = self._dropped = 0
        self.socket = namespace.call(_open, interface, program)

    def count(self) -> int:
        """Packets that passed the filter so far, also those that found no room."""
        # The kernel's figures start again at each reading.
        raw = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        passed, dropped = struct.unpack("II", raw)
        self._seen += passed
        self._dropped += dropped
        return self._seen

    @property
    def dropped(self) -> int:
        """Packets that found no room, as of the last count()."""
        return self._dropped

    def close(self) -> None:
        """Ends the recording."""
        self.socket.close()


class CountingSniffer(Capture):
    """Counts, in the kernel, the pure SYNs to a port; exact at any rate, for nothing is read.

    Its limits: no addresses; only TCP directly after the IP header, so no IPv6 extension headers
    and no later fragments; IPv4 options are understood.
    """

    def __init__(
        self, namespace: Namespace, interface: str, *, port: int, direction: Direction = "in"
    ) -> None:
        super().__init__(namespace, interface, syn_filter(port, direction))

    def wait_for(self, count: int, *, timeout_s: float | None = None) -> None:
        """Returns when so many were counted. Raises LabError after `timeout_s`."""
        wait_until(
            lambda: self.count() >= count,
            f"{count} packets on {self.interface}; {self._seen} came",
            timeout_s=timeout_s,
        )

    def stop(self) -> int:
        """The count, once nothing more has come for a moment."""
        _settle(self.count)
        self.close()
        return self._seen


class Sniffer(Capture):
    """Records every TCP packet to the ports, and every fragment that could hide one.

    Good for some 100,000 packets a second for seconds; beyond the buffer, stop() raises
    SnifferOverflow. Tunnels are not opened.
    """

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        *,
        ports: Iterable[int] = (25,),
        direction: Direction = "in",
    ) -> None:
        self.ports = frozenset(ports)
        self._raw: list[bytes] = []
        self._stopping = threading.Event()
        super().__init__(namespace, interface, tcp_filter(direction))
        self._reader = threading.Thread(target=self._read, name=f"sniffer-{interface}")
        self._reader.start()

    def packets(self) -> list[Packet]:
        """What was recorded so far."""
        found = (parse(frame) for frame in self._raw.copy())
        return [p for p in found if p and (p.fragment or p.destination_port in self.ports)]

    def syns(self) -> list[Packet]:
        """The pure SYNs among them."""
        return [packet for packet in self.packets() if packet.pure_syn]

    def wait_for(self, count: int, what: Callable[[Packet], bool] = bool, *,
                 timeout_s: float | None = None) -> None:
        """Returns when so many recorded packets satisfy `what`. Raises LabError after a time."""
        wait_until(
            lambda: sum(map(what, self.packets())) >= count,
            f"{count} packets on {self.interface}",
            timeout_s=timeout_s,
        )

    def stop(self) -> list[Packet]:
        """All packets, once nothing more has come for a moment. Raises SnifferOverflow."""
        _settle(self.count)
        self.close()
        if self.dropped:
            raise SnifferOverflow(f"{self.interface}: {self.dropped} packets were not recorded")
        return self.packets()

    def close(self) -> None:
        """Ends the recording."""
        self._stopping.set()
        self._reader.join()
        super().close()

    def _read(self) -> None:
        while True:
            try:
                self._raw.append(self.socket.recv(SNAP_BYTES))
            except TimeoutError:
                if self._stopping.is_set():
                    return


def _open(interface: str, program: bytes) -> socket.socket:
    # Protocol 0 receives nothing until bind(): filter and buffer are in place at the first packet.
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        instructions = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("HL", len(program) // 8, ctypes.addressof(instructions))
        raw.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
        raw.settimeout(QUIET_S)
        raw.bind((interface, ETH_P_ALL))
    except BaseException:
        raw.close()
        raise
    return raw


def _settle(count: Callable[[], int]) -> None:
    """Waits until nothing has come for a moment: packets already sent may still be on their way."""
    before = -1
    while (now := count()) != before:
        before = now
        time.sleep(QUIET_S)
