"""Changes the ruleset: one text, one transaction, through libnftables (Debian's python3-nftables)."""

from nftables import Nftables

from egressguard.core.errors import KernelError


def context() -> Nftables:
    """A context of libnftables: one netlink socket, which owns the tables that it gives the flag `owner`."""
    return Nftables()


def apply(transaction: str, what: str, owner: Nftables | None = None) -> None:
    """Applies `transaction` as a whole or not at all; `what` says in errors what was attempted. With the
    context `owner`, as the owner of the table.

    Raises KernelError with libnftables' own words, which are all it gives.
    """
    # A context is not for two threads, and making one takes microseconds.
    code, _, error = (owner or context()).cmd(transaction)
    if code != 0:
        first = "; ".join(line.strip() for line in error.splitlines() if "Error:" in line) or error
        raise KernelError(f"{what}: {first.strip()[:500]}")
