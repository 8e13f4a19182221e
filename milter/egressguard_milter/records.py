"""What is written down about use, and where: the seam between the ledger and the durable memory."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from egressguard_milter.account import Amounts, Pool


class Record(NamedTuple):
    """`key` used `amounts` at `at_s`; without amounts, it was forgiven."""

    key: str
    pool: Pool
    amounts: Amounts | None
    at_s: float


class Memory(Protocol):
    """Where records go, so that they outlive the process."""

    def write(self, records: Sequence[Record]) -> None:
        """Returns when a killed process cannot lose `records` any more; never raises."""


class Forgetful:
    """A memory that keeps nothing."""

    def write(self, records: Sequence[Record]) -> None:
        """Keeps nothing."""
