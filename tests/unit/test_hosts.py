"""A host's key is written as the kernel's reader and everybody else write it."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from hypothesis import example, given
from hypothesis import strategies as st

from egressguard.core.hosts import host_of

GROUP = st.one_of(st.sampled_from([0, 0, 1, 0xffff]), st.integers(0, 0xffff))


@given(st.lists(GROUP, min_size=8, max_size=8))
@example([0] * 8)
@example([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201])
def test_an_ipv6_host_is_its_network_in_canonical_form(groups: list[int]) -> None:
    address = IPv6Address(int.from_bytes(b"".join(group.to_bytes(2, "big") for group in groups), "big"))
    assert host_of(address) == str(IPv6Network((address, 64), strict=False))


def test_an_ipv4_host_is_its_address() -> None:
    assert host_of(IPv4Address("192.0.2.7")) == "192.0.2.7"
