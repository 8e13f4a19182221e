"""One client's connection: at most one reservation, settled or given back exactly once.

Abort arrives redundantly (twice per refused MAIL in Postfix) and not always, so every way out of a
transaction ends in `_release`, which does nothing the second time.
"""

from egressguard.core.hosts import Host, canonical_address, host_of
from egressguard_milter.limits import Decision, Limits

# A connection without a usable address (unix socket, unknown family) is not unlimited: all of them
# are one client. No verdict can name it, because it is no address.
UNADDRESSED = Host("unaddressed")


def host_in(address: str | None) -> Host:
    """The key of the client at `address` as the MTA wrote it; UNADDRESSED when it is none."""
    if address is None:
        return UNADDRESSED
    try:
        return host_of(canonical_address(address))
    except ValueError:
        return UNADDRESSED


class Session:
    """One milter connection; its callbacks come one after another, though from changing threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._host = UNADDRESSED
        self._reserved: Host | None = None

    def connect(self, address: str | None) -> None:
        """A client is there. XCLIENT makes it a second time on one connection, as another client."""
        self._release()
        self._host = host_in(address)

    def mail(self, now_s: float) -> Decision:
        """MAIL FROM: reserves one message."""
        self._release()
        decision = self._limits.check(self._host, now_s)
        if decision.accepted:
            self._reserved = self._host
        return decision

    def end_of_message(self, now_s: float) -> None:
        """The message is complete: now it counts."""
        if self._reserved is not None:
            host, self._reserved = self._reserved, None
            self._limits.settle(host, now_s)

    def abort(self) -> None:
        """The transaction ended without a message, or had ended before."""
        self._release()

    def close(self) -> None:
        """The client is gone."""
        self._release()

    def _release(self) -> None:
        if self._reserved is not None:
            host, self._reserved = self._reserved, None
            self._limits.release(host)
