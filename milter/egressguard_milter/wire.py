"""The milter protocol as bytes, version 6: what an MTA sends, and what it may be answered. No I/O.

A packet is a length (4 bytes, network order), a command letter and data. The source is sendmail's mfdef.h and
mfapi.h; Postfix's src/milter/milter8.c agrees with it.
"""

import struct
from collections.abc import Mapping

VERSION, OLDEST_VERSION = 6, 2
LARGEST = 1 << 16  # as libmilter: a command and 65,535 bytes of a body, which our negotiation rules out
LENGTH = struct.Struct("!I")
HEAD = struct.Struct("!IB")  # the length of what follows it, and the command
OFFER = struct.Struct("!III")  # version, actions, steps

# Commands of an MTA.
NEGOTIATE, CONNECT, HELO, MAIL, RCPT, DATA, UNKNOWN = b"OCHMRTU"
HEADER, END_OF_HEADERS, BODY, END_OF_MESSAGE = b"LNBE"
ABORT, QUIT, QUIT_FOR_ANOTHER, MACROS = b"AQKD"

# Actions and steps of a negotiation.
QUARANTINE, SET_MACROS = 0x20, 0x100
NO_HELO, NO_BODY, NO_HEADERS, NO_END_OF_HEADERS, NO_UNKNOWN, NO_DATA = 0x02, 0x10, 0x20, 0x40, 0x100, 0x200
REFUSED_RECIPIENTS = 0x800  # RCPT is told of recipients that the MTA refuses, too
# The stages as SET_MACROS numbers them.
STAGES = {CONNECT: 0, HELO: 1, MAIL: 2, RCPT: 3, DATA: 4, END_OF_MESSAGE: 5, END_OF_HEADERS: 6}


class WireError(Exception):
    """What came is not what an MTA sends; the connection cannot go on."""


def packet(command: bytes, data: bytes = b"") -> bytes:
    """One packet."""
    return LENGTH.pack(len(command) + len(data)) + command + data


GO_ON = packet(b"c")
TEMPORARY_FAILURE = packet(b"t")


def reply(text: str) -> bytes:
    """A refusal with its code and text, in ASCII."""
    return packet(b"y", text.encode("ascii") + b"\0")


def quarantine(reason: str) -> bytes:
    """Puts the message into the MTA's hold queue; GO_ON must follow."""
    return packet(b"q", reason.encode("ascii") + b"\0")


def negotiated(offer: bytes, actions: int, steps: int, macros: Mapping[int, bytes]) -> bytes:
    """The answer to an MTA's offer: what of `actions` and `steps` it can do, and the macros of each stage.

    Raises WireError when the offer is none.
    """
    if len(offer) < OFFER.size or OFFER.unpack_from(offer)[0] < OLDEST_VERSION:
        raise WireError("an offer that is none, or of a version before 2")
    version, offered_actions, offered_steps = OFFER.unpack_from(offer)
    actions &= offered_actions
    wanted = b"".join(LENGTH.pack(STAGES[stage]) + names + b"\0" for stage, names in macros.items())
    return packet(b"O", OFFER.pack(min(version, VERSION), actions, steps & offered_steps)
                  + (wanted if actions & SET_MACROS else b""))


def connected(data: bytes) -> tuple[str, str | None]:
    """A client's host name, and its address: None for a unix socket or an odd family. Raises WireError."""
    host, zero, rest = data.partition(b"\0")
    if not zero or not rest:
        raise WireError("a client without a family")
    address = text(rest[3:].partition(b"\0")[0]) if rest[:1] in (b"4", b"6") else None
    return text(host), address


def words(data: bytes) -> list[str]:
    """The words of MAIL and RCPT: the address, then the parameters. Raises WireError without any."""
    if data[-1:] != b"\0":
        raise WireError("a command without an end")
    return data[:-1].decode("utf-8", "surrogateescape").split("\0")


def macro(data: bytes, name: bytes) -> str:
    """The value of the macro `name` in what MACROS said of one stage, empty without one."""
    if name not in data:  # this is asked at each MAIL and RCPT
        return ""
    pieces = data[1:].split(b"\0")
    values = dict(zip(pieces[::2], pieces[1::2], strict=False))
    return text(values.get(name, b""))


def text(data: bytes) -> str:
    """Whatever bytes a client wrote, as text."""
    return data.decode("utf-8", "surrogateescape")
