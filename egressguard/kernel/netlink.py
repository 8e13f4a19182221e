"""Requests to nf_tables over one raw nfnetlink socket, and their answers as attributes.

Why not libnftables for reading: its JSON of a large set is 3 to 10 times slower and takes 250 MB at
100,000 elements, and listing anything fills its cache with every set. Layouts: linux/netlink.h,
linux/netfilter/nfnetlink.h and nf_tables.h, all in the machine's byte order except where noted.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from egressguard.core.errors import KernelError
from egressguard.core.ruleset import FAMILY

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_INET, NFPROTO_NETDEV, NFPROTO_BRIDGE = 1, 5, 7  # linux/netfilter.h
FAMILIES = {"inet": NFPROTO_INET, "netdev": NFPROTO_NETDEV, "bridge": NFPROTO_BRIDGE}

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3

GETTABLE, GETCHAIN, GETRULE, GETSET, GETSETELEM, GETGEN, GETOBJ = 1, 4, 7, 10, 13, 16, 19

_HEADER = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_PAYLOAD = _HEADER.size + _NFGENMSG.size
_BUFFER_BYTES = 1 << 20
_TIMEOUT_S = 10.0
_INTERRUPTED_TRIES = 20

Attributes = dict[int, memoryview]


class NoSuchEntry(KernelError):
    """The table, set or counter asked for does not exist."""


def attribute(kind: int, text: str) -> bytes:
    """A NUL-terminated string attribute, padded."""
    payload = text.encode() + b"\0"
    data = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload
    return data + bytes(-len(data) % 4)


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes in `data`, one after another, as (type, payload)."""
    position, end = 0, len(data)
    unpack = _ATTRIBUTE.unpack_from
    while position + 4 <= end:
        length, kind = unpack(data, position)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[position + 4:position + length]
        position += (length + 3) & ~3


def messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The messages in one datagram, as (type, attributes)."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        yield kind, data[position + _PAYLOAD:position + length]
        position += max((length + 3) & ~3, _HEADER.size)


def text(payload: memoryview) -> str:
    """The string in an attribute's payload."""
    return bytes(payload).rstrip(b"\0").decode()


class Netlink:
    """One socket in the network namespace of the thread that opens it; not for use by two threads.

    `family` is that of the table that readers ask it for.
    """

    subsystem, missing = NFNL_SUBSYS_NFTABLES, "nf_tables (CONFIG_NF_TABLES)"

    def __init__(self, family: str = FAMILY) -> None:
        self.name, self.family = family, FAMILIES[family]
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                         NETLINK_NETFILTER)
        except OSError as error:
            raise self._translated("opening a netlink socket", error.errno or 0) from error
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.bind((0, 0))
        self._buffer = bytearray(_BUFFER_BYTES)
        self._sequence = 0

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def get(self, message: int, family: int, payload: bytes, what: str) -> memoryview:
        """The one answer's attributes to a request without a dump; `what` names it in errors."""
        return self._exchange(message, family, payload, 0, what)[0]

    def dump(self, message: int, family: int, payload: bytes, what: str) -> list[memoryview]:
        """Every answer's attributes to a dump; asked again when the kernel says it was interrupted."""
        for _ in range(_INTERRUPTED_TRIES):
            try:
                return self._exchange(message, family, payload, NLM_F_DUMP, what)
            except InterruptedError:
                continue
        raise KernelError(f"{what}: changed {_INTERRUPTED_TRIES} times while it was read")

    def tell(self, message: int, family: int, payload: bytes, what: str) -> None:
        """A request whose only answer is that it was carried out."""
        self._exchange(message, family, payload, NLM_F_ACK, what)

    def _exchange(self, message: int, family: int, payload: bytes, flags: int, what: str
                  ) -> list[memoryview]:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_PAYLOAD + len(payload), self.subsystem << 8 | message,
                                       NLM_F_REQUEST | flags, self._sequence, 0)
                          + _NFGENMSG.pack(family, 0, 0) + payload)
        answers: list[memoryview] = []
        interrupted = False
        while True:
            done, broken = self._receive(answers, what)
            interrupted |= broken
            if done or (answers and not flags):
                if interrupted:
                    raise InterruptedError
                return answers

    def _receive(self, answers: list[memoryview], what: str) -> tuple[bool, bool]:
        """Appends one datagram's answers; tells whether the dump is done, and whether interrupted."""
        try:
            size = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise self._translated(what, error.errno or errno.ETIMEDOUT) from error
        data = memoryview(bytes(memoryview(self._buffer)[:size]))
        position, interrupted = 0, False
        while position + _HEADER.size <= size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
            if sequence == self._sequence:
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    self._raise_error(data, position, what)
                    return True, interrupted
                answers.append(data[position + _PAYLOAD:position + length])
            position += max((length + 3) & ~3, _HEADER.size)
        return False, interrupted

    def _raise_error(self, data: memoryview, position: int, what: str) -> None:
        """An error message and the end of a dump both carry a negative errno, or zero."""
        code = -struct.unpack_from("=i", data, position + _HEADER.size)[0]
        if code == errno.EINTR:
            raise InterruptedError
        if code:
            raise self._translated(what, code)

    def _translated(self, what: str, code: int) -> KernelError:
        reasons = {
            errno.EPERM: "not permitted: this needs CAP_NET_ADMIN, run it as root",
            errno.EPROTONOSUPPORT: f"this kernel has no {self.missing}",
            errno.EAFNOSUPPORT: f"this kernel has no {self.missing}",
            errno.EOPNOTSUPP: f"this kernel has no {self.missing}",
            errno.EINVAL: f"this kernel has no {self.missing}, or an unknown one",
            errno.ETIMEDOUT: f"the kernel did not answer within {_TIMEOUT_S:.0f} s",
        }
        kind = NoSuchEntry if code == errno.ENOENT else KernelError
        return kind(f"{what}: {reasons.get(code, os.strerror(code))}")
