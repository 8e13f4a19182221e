"""Who sends in whose name, as the kernel knows it now: MACs beside addresses, against the neighbour table."""

from collections.abc import Mapping
from contextlib import closing
from time import monotonic

from egressguard.core.errors import KernelError
from egressguard.core.forgery import Forgery, forgeries
from egressguard.core.settings import Settings
from egressguard.core.wanted import tables
from egressguard.kernel import Netfilter

COUNT_EVERY_S = 60.0


def read_forgeries(settings: Settings) -> tuple[list[Forgery], list[Forgery]]:
    """The attempts, and the senders' connections, that came from another MAC than their address's machine has
    within the last hour. Raises KernelError.
    """
    with closing(Netfilter()) as kernel:
        every = [kernel, *map(kernel.beside, tables(settings)[1:])]
        attempts, senders = [k.attempt_macs() for k in every], [k.sender_macs() for k in every]
        known = kernel.neighbours({address for found in (*attempts, *senders) for address in found})
    return forgeries(attempts, known, settings), forgeries(senders, known, settings)


class Census:
    """How many addresses others send in the name of, for the metrics. Counted by whoever asks, in his thread:
    full sets take tenths of a second, for which no round waits.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._counted_s = float("-inf")

    def counts(self, settings: Settings) -> Mapping[str, int]:
        """By what they do in it, at most a minute old; nothing when the kernel does not answer."""
        if monotonic() - self._counted_s >= COUNT_EVERY_S:
            try:
                attempts, senders = read_forgeries(settings)
                self._counts = {"host": len(attempts), "sender": len(senders)}
            except KernelError:
                self._counts = {}
            self._counted_s = monotonic()
        return self._counts
