"""The MTA's side of the milter protocol, as bytes: enough of it to hold a conversation."""

from collections.abc import Iterable

from egressguard_milter import wire
from egressguard_milter.conversation import Conversation
from egressguard_milter.limits import Limits
from egressguard_milter.log import DecisionLog
from egressguard_milter.tallies import Tallies

EVERYTHING = wire.OFFER.pack(6, 0x1FF, 0x1FFFFF)
OFFER = wire.packet(b"O", EVERYTHING)
END, ABORT, QUIT, ANOTHER = (wire.packet(letter) for letter in (b"E", b"A", b"Q", b"K"))


def macros(stage: bytes, **values: str) -> bytes:
    """The macros of a stage; `_x_` means {x}."""
    pairs = [("{" + n.strip("_") + "}" if n[0] == "_" else n, v) for n, v in values.items()]
    return wire.packet(b"D", stage + b"".join(f"{name}\0{value}\0".encode() for name, value in pairs))


def client(address: str = "192.0.2.1", host: str = "client.example") -> bytes:
    family = b"6" if ":" in address else b"4"
    return wire.packet(b"C", host.encode() + b"\0" + family + b"\x04\xd2" + address.encode() + b"\0")


def mail(sender: str = "<a@inside.example>", *parameters: str) -> bytes:
    return wire.packet(b"M", b"".join(f"{word}\0".encode() for word in (sender, *parameters)))


def rcpt(recipient: str = "<b@outside.example>") -> bytes:
    return wire.packet(b"R", recipient.encode() + b"\0")


def message() -> bytes:
    return mail() + rcpt() + END


def answers(data: bytes) -> list[str]:
    """The answers in `data`: a letter, and for a refusal its text."""
    found, at = [], 0
    while at < len(data):
        end = at + 4 + wire.LENGTH.unpack_from(data, at)[0]
        found.append(data[at + 4:end].rstrip(b"\0").decode())
        at = end
    return found


def conversation(limits: Limits, said: Iterable[bytes] = (OFFER, client())) -> Conversation:
    """One that has begun with `said`."""
    made = Conversation(limits, Tallies(), DecisionLog())
    for data in said:
        made.hear(data)
    return made
