"""Changes the ruleset: one text, one transaction, through libnftables (Debian's python3-nftables)."""

import nftables

from egressguard.core.errors import KernelError


def apply(transaction: str, what: str) -> None:
    """Applies `transaction` as a whole or not at all; `what` says in errors what was attempted.

    Raises KernelError with libnftables' own words, which are all it gives.
    """
    nft = nftables.Nftables()  # a context is not for two threads, and making one takes microseconds
    code, _, error = nft.cmd(transaction)
    if code != 0:
        first = "; ".join(line.strip() for line in error.splitlines() if "Error:" in line) or error
        raise KernelError(f"{what}: {first.strip()[:500]}")
