"""The limit of our own loop: egressguard's server and protocol, where each step is answered `continue` and
nothing is decided. What it lacks of the C no-op is Python's, what egressguard lacks of it is the limits'.

Usage: python -m bench.relay.floor_milter SOCKET
"""

import sys

from egressguard_milter import conversation, wire
from egressguard_milter.conversation import Conversation
from egressguard_milter.endpoint import listen, parse_endpoint
from egressguard_milter.server import Server, signal_socket


class Floor(Conversation):
    """Negotiates what egressguard negotiates and agrees to everything."""

    def __init__(self) -> None:
        self._rest, self._macros, self.ended = b"", {}, False
        self._in_order = {**conversation.WITH_A_CLIENT, **dict.fromkeys(AGREED, Conversation._pass),
                          wire.NEGOTIATE: Floor._offered, wire.ABORT: lambda *_: b""}

    @property
    def let_in(self) -> bool:
        """Nobody is kept out."""
        return True

    def close(self) -> None:
        """Nothing was reserved."""

    def _offered(self, offer: bytes) -> bytes:
        return wire.negotiated(offer, conversation.ACTIONS, conversation.STEPS, conversation.NEEDED)


AGREED = (wire.CONNECT, wire.MAIL, wire.RCPT, wire.END_OF_MESSAGE)

if __name__ == "__main__":
    Server([listen(parse_endpoint(sys.argv[1]))], Floor, signal_socket()).serve()
