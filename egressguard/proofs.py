"""Handshakes that hosts have completed with the sinkhole, until they are joined with the host's attempts."""

from collections.abc import Container
from ipaddress import ip_address

from egressguard.core.attempts import Attempts
from egressguard.core.hosts import Host, host_of
from egressguard.core.path_settings import Sinkhole
from egressguard.kernel.sinkhole import Listener

MAX_PROVED, MAX_PROOFS = 4096, 64  # hosts whose proofs wait for their next attempts, and of each


class Proofs:
    """What the listener has seen. A handshake may end a round later than its SYN was counted, so it waits for
    the host's next attempts.
    """

    def __init__(self) -> None:
        self._listener = Listener()
        self._proved: dict[Host, list[str]] = {}

    def listen(self, sinkhole: Sinkhole) -> None:
        """Takes in what has been proved; also begins to listen, or ceases to. Raises KernelError."""
        for proof in self._listener.proofs(sinkhole):
            host = host_of(ip_address(proof.source))
            if len(self._proved) < MAX_PROVED or host in self._proved:
                self._proved[host] = [*self._proved.get(host, ()), proof.destination][-MAX_PROOFS:]

    def hosts(self) -> list[Host]:
        """Whose proofs wait."""
        return list(self._proved)

    def taken(self, *tried: Container[Host]) -> dict[Host, Attempts]:
        """The proofs of the hosts that any of `tried` holds; as attempts the rules have counted them."""
        due = [host for host in self._proved if any(host in hosts for hosts in tried)]
        proofs = {host: tuple(self._proved.pop(host)) for host in due}
        return {host: Attempts(0, verified=len(found), proven=found) for host, found in proofs.items()}

    def close(self) -> None:
        """Ceases to listen."""
        self._listener.close()
