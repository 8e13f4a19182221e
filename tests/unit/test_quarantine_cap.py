"""Nobody can quarantine a whole site by mistake: three hosts, or one in ten of the inventory, whichever is more."""

from ipaddress import ip_address, ip_network

import pytest

from egressguard.core import orders
from egressguard.core.hosts import Host
from egressguard.core.orders import Order, OrderRefused
from egressguard.core.settings import Inside, Machine, Settings

NETWORK = ip_network("198.51.100.0/24")


def site(machines: int) -> Settings:
    hosts = tuple(Machine(f"h{n}", (ip_address(f"198.51.100.{n + 1}"),)) for n in range(machines))
    return Settings(inside=(Inside(("web",), (NETWORK,)),), host=hosts)


def quarantine(number: int) -> Order:
    return Order("quarantine", "op", "it spams", 600.0, Host(f"198.51.100.{number + 1}"))


def allowed(machines: int) -> int:
    """How many quarantines are given one after another."""
    standing: list[Order] = []
    try:
        for number in range(200):
            orders.check(quarantine(number), standing, site(machines))
            standing.append(quarantine(number))
    except OrderRefused as error:
        assert f"the most is {len(standing)} " in str(error)
    return len(standing)


@pytest.mark.parametrize(("machines", "most"), [(0, 3), (1, 3), (39, 3), (40, 4), (49, 4), (50, 5), (199, 19)])
def test_the_cap_is_three_or_a_tenth_of_the_inventory(machines: int, most: int) -> None:
    assert allowed(machines) == most


def test_one_that_is_quarantined_already_can_be_again() -> None:
    standing = [quarantine(number) for number in range(3)]
    orders.check(quarantine(0), standing, site(0))


def test_mutant_without_the_tenth_or_without_the_three_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "QUARANTINE_SHARE", 10_000)
    assert allowed(50) != 5
    monkeypatch.undo()
    monkeypatch.setattr(orders, "QUARANTINE_LEAST", 0)
    assert allowed(1) != 3
