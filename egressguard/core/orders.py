"""What an operator has ordered for a time: exceptions, quarantines, opening port 25.

An order is a lease in the kernel: its elements carry a timeout and end by themselves, whether or not
anything of egressguard still runs. `remaining_s` is what is left of it; no wall clock is involved.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import Address, Host, hosts_of
from egressguard.core.ruleset import ALL_FAMILIES, LEASED, Element, Leases
from egressguard.core.settings import Settings

Kind = Literal["exception", "quarantine", "open"]
MOST_DAYS = 365
QUARANTINE_LEAST = 3
QUARANTINE_SHARE = 10  # one in ten of the inventory


@dataclass(frozen=True, slots=True)
class Order:
    """One order; `host` is None for `open`, `destination` None unless an exception is for one only."""

    kind: Kind
    owner: str
    reason: str
    remaining_s: float
    host: Host | None = None
    destination: str | None = None
    number: int = 0

    def describe(self) -> str:
        """The order as one line of history."""
        return f"{self.kind}{self._target()} for {round(self.remaining_s)} s by {self.owner}: {self.reason}"

    def describe_end(self) -> str:
        """Its end, as one line of history."""
        return f"{self.kind}{self._target()}: its time is over; it was by {self.owner}: {self.reason}"

    def _target(self) -> str:
        on = f" on {self.host}" if self.host else ""
        return f"{on} to {self.destination}" if self.destination else on


class OrderRefused(EgressguardError):
    """An order that must not be carried out; the text says why."""


def check(order: Order, standing: Iterable[Order], settings: Settings, own: frozenset[str] = frozenset()
          ) -> None:
    """Raises OrderRefused for an order that hits a sender, exceeds the cap, or makes no sense; `own` are this
    machine's addresses.
    """
    if not 0 < order.remaining_s <= MOST_DAYS * 86400:
        raise OrderRefused(f"a time of {order.remaining_s:.0f} s: give one above 0, at most {MOST_DAYS}d")
    if not order.reason.strip():
        raise OrderRefused("no reason: say why, whoever reads the history will ask")
    if order.host is not None and not _lives_here(order.host, settings):
        raise OrderRefused(f"{order.host} lies behind no inside interface: there is nothing to order for it")
    if order.host is not None:
        _check_host(order.host, settings, own)
    if order.kind == "quarantine":
        _check_quarantine(order, standing, settings)


def _check_host(host: Host, settings: Settings, own: frozenset[str]) -> None:
    """A /64 may be this machine's and its hosts'; an IPv4 address is one machine's or nobody's."""
    address = address_of(host)
    if str(host) in own:
        raise OrderRefused(f"{host} is this machine's own address, and no host's (see own.guard in the "
                           "configuration)")
    for network in [*(network for inside in settings.inside for network in inside.networks),
                    *(network for bridge in settings.bridge for network in bridge.networks)]:
        if address.version == 4 and network.prefixlen < 31 and address in (
                network.network_address, network.broadcast_address):
            raise OrderRefused(f"{host} is the first or last address of {network}, which no host has")


def _lives_here(host: Host, settings: Settings) -> bool:
    address = address_of(host)
    return bool(settings.interfaces_of(address) or settings.bridges_of(address))


def _check_quarantine(order: Order, standing: Iterable[Order], settings: Settings) -> None:
    keys = set(keys_of(order, settings))
    for sender in settings.sender:
        if keys & set(hosts_of(sender.addresses)):
            raise OrderRefused(f"{order.host} is the sender {sender.name}: a sender is never quarantined; "
                               "remove it from the configuration first if it is compromised")
    others = {o.host for o in standing if o.kind == "quarantine"} - keys
    most = max(QUARANTINE_LEAST, len(settings.host) // QUARANTINE_SHARE)
    if len(others) >= most:
        raise OrderRefused(f"{len(others)} hosts are quarantined, the most is {most} (one in "
                           f"{QUARANTINE_SHARE} of the inventory, at least {QUARANTINE_LEAST}): release one")


Places = Callable[[Address], Iterable[str]]


def desired(orders: Iterable[Order], settings: Settings, places: Places | None = None,
            families: Iterable[Element] = ALL_FAMILIES) -> Leases:
    """The leased elements that `orders` amount to, each with its time left; the longest order counts.

    `places` tells the interfaces behind which an address lives; `families` is how its table names both.
    """
    wanted: Leases = {name: {} for name in LEASED}
    for order in orders:
        for name, element in _elements(order, settings, places or settings.interfaces_of, families):
            wanted[name][element] = max(order.remaining_s, wanted[name].get(element, 0.0))
    return wanted


def _elements(order: Order, settings: Settings, places: Places, families: Iterable[Element]
              ) -> Iterable[tuple[str, Element]]:
    if order.kind == "open":
        return [("opened_family", family) for family in families]
    keys = keys_of(order, settings)
    if order.kind == "quarantine":
        return [(f"quarantine{_family(key)}", (str(address_of(key)),)) for key in keys]
    return [element for key in keys for element in _exception(key, order.destination, places)]


def _exception(key: Host, destination: str | None, places: Places) -> Iterable[tuple[str, Element]]:
    address = address_of(key)
    for place in places(address):
        if destination is None:
            yield f"exception{_family(key)}", (place, str(address))
        elif address.version == ip_address(destination).version:
            yield f"exception_to{_family(key)}", (place, str(address), destination)


def keys_of(order: Order, settings: Settings) -> list[Host]:
    """Every key of the machine that the order is about; one of the inventory is meant as a whole."""
    if order.host is None:
        return []
    machine_of = settings.machine_of()
    first = machine_of.get(order.host, order.host)
    return [key for key, machine in machine_of.items() if machine == first] or [order.host]


def address_of(host: Host) -> Address:
    """The address by which rules/ looks `host` up."""
    return ip_address(host.partition("/")[0])


def _family(host: Host) -> str:
    return "6" if ":" in host else "4"
