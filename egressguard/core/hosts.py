"""A host is an inside machine, the unit of judgement.

Its key is text: an IPv4 address, or the /64 of an IPv6 address, since one machine owns a whole /64
and may send from any address in it (rules/ masks with the same length, so both sides agree).
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NewType

Host = NewType("Host", str)
Address = IPv4Address | IPv6Address

IPV6_PREFIX_LENGTH = 64


def canonical_address(text: str) -> Address:
    """The address in `text` as an MTA or a person writes it.

    Accepts sendmail's `IPv6:` prefix, uncompressed IPv6, and IPv4-mapped IPv6, which is the same
    machine as the IPv4 address. Raises ValueError for anything else.
    """
    address = ip_address(text.removeprefix("IPv6:"))
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def host_of(address: Address) -> Host:
    """The key of the host that owns `address`."""
    if isinstance(address, IPv4Address):
        return Host(str(address))
    # What ipaddress would write, sixteen times as fast: an inventory names a hundred thousand. The lower half
    # is zero, so it and the zeros before it are always the longest run, which is the one written as `::`.
    network = int(address) >> IPV6_PREFIX_LENGTH
    groups = [network >> 48, network >> 32 & 0xffff, network >> 16 & 0xffff, network & 0xffff]
    while groups and not groups[-1]:
        groups.pop()
    return Host(f"{':'.join(f'{group:x}' for group in groups)}::/{IPV6_PREFIX_LENGTH}")


def hosts_of(addresses: Iterable[Address]) -> tuple[Host, ...]:
    """The keys of `addresses`, each once, in their order."""
    return tuple(dict.fromkeys(map(host_of, addresses)))
