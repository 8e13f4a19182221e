"""What the kernel and libnftables of this machine can promise; where one cannot, what is done instead."""

from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that depends on a version, whether it holds here, and what it means."""

    name: str
    holds: bool
    text: str


def promises(kernel: Version, nft: Version) -> list[Promise]:
    """Every promise that depends on a version. Sources: the kernel's and nftables' change logs."""
    return [
        Promise("supported kernel", kernel >= (5, 10),
                "Linux 5.10 is the oldest that is supported (Debian 11's)"),
        Promise("owner flag", kernel >= (5, 12),
                "a table can belong to a process (Linux 5.12); egressguard's outlives its own"),
        Promise("persistent owner", kernel >= (6, 9) and nft >= (1, 1, 0),
                "an owned table can outlive its owner (Linux 6.9, nft 1.1.0); otherwise another tool's flush "
                "is not prevented, but repaired and recorded"),
        Promise("lease extension", kernel >= (6, 12),
                "adding an element again extends its timeout (Linux 6.12); egressguard removes and adds it "
                "in one transaction, which works on every version"),
        Promise("netdev egress", kernel >= (5, 16),
                "a last line of defence on the way out of an interface is possible (Linux 5.16)"),
    ]
