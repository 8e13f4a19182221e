"""`plan` and the verbs: what an operator orders, carried out at once and kept by the daemon afterwards.

A verb writes its order down first and then brings the kernel into line, in one transaction, whether or not
the daemon runs; a running daemon finds the same order in its next round and nothing left to do.
"""

import getpass
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from egressguard.boot import boot_id, now_s
from egressguard.config import Site, read_site
from egressguard.configurations import Configurations
from egressguard.core import detection, orders
from egressguard.core.errors import EgressguardError, ExchangeError
from egressguard.core.hosts import Host, canonical_address, host_of
from egressguard.core.orders import Order
from egressguard.core.settings import Settings
from egressguard.core.verdict import State
from egressguard.core.wanted import kept
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.exchange import open_exchange
from egressguard.kernel import Netfilter
from egressguard.kernel.links import read_addresses
from egressguard.last_good import LastGood

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@contextmanager
def opened(config: Path) -> Iterator[tuple[Site, Database, Enforcement]]:
    """The configured site with its database and its kernel."""
    site = read_site(config)
    kernel = Netfilter()
    try:
        database = Database(Path(site.settings.database), boot_id())
        try:
            last_good = LastGood(Path(site.settings.database).parent, kept(site.settings))
            yield site, database, Enforcement(site, kernel, database, boot_id(), last_good)
        finally:
            database.close()
    finally:
        kernel.close()


@contextmanager
def in_force(config: Path) -> Iterator[tuple[Site, Database, Enforcement]]:
    """The same with the configuration in force: an order carries out nothing else that the file may say."""
    with opened(config) as (site, database, enforcement):
        current = Configurations(database, config).current(now_s())
        if current is not None:
            enforcement.adopt(current.site, current.former, current.ends_s)
        yield enforcement.site if current else site, database, enforcement


def plan_text(config: Path) -> str:
    """What `apply` would do, as the transaction that it would apply."""
    with opened(config) as (_, _, enforcement):
        return enforcement.planned(now_s())


def give(config: Path, order: Order) -> str:
    """Checks and carries out one order."""
    with in_force(config) as (site, database, enforcement):
        orders.check(order, database.orders(now_s()), site.settings, read_addresses())
        database.give_order(order, now_s())
        _carry_out(enforcement)
    return order.describe()


def end(config: Path, host: Host | None, reason: str) -> str:
    """Ends every order on `host` before its time, and forgives it; with None, ends the opening.

    Says which other routers judge it as well, since relays go by the worst.
    """
    with in_force(config) as (site, database, enforcement):
        standing = database.orders(now_s())
        ended = [o for o in standing if _concerns(o, host, site.settings)]
        first = None if host is None else site.settings.machine_of().get(host, host)
        judged = None if first is None else database.verdicts(now_s()).get(first)
        bad = judged is not None and judged.told is not State.CLEAN
        if not ended and not bad:
            raise EgressguardError(f"no order stands on {host or 'the site'}"
                                   + (", and its verdict is clean" if host is not None else ""))
        database.end_orders([o.number for o in ended], first, reason, now_s(),
                            detection.release(judged, now_s()) if judged is not None else None)
        if ended:
            _carry_out(enforcement)
    return "\n".join([*(f"ended: {order.describe()}" for order in ended), *([f"forgiven: {first}"] * bad),
                      *(elsewhere(first, site.settings) if first is not None else ())])


def elsewhere(host: Host, settings: Settings) -> list[str]:
    """What other routers have said of `host` last, a line each; nothing while nobody can be asked."""
    machine_of = settings.machine_of()
    try:
        exchange = open_exchange(settings.exchange, settings.exchange_key, read_only=True)
        try:
            found = {bulletin.origin.name: state for bulletin in exchange.bulletins()
                     for key, state in bulletin.verdicts.items() if machine_of.get(key, key) == host}
        finally:
            exchange.close()
    except ExchangeError:
        return []
    return [f"router {name} says that it is {state}: release it there as well"
            for name, state in sorted(found.items()) if name != settings.router]


def _concerns(order: Order, host: Host | None, settings: Settings) -> bool:
    if host is None:
        return order.kind == "open"
    return order.host is not None and host in orders.keys_of(order, settings)


def _carry_out(enforcement: Enforcement) -> None:
    if not enforcement.loaded():
        raise EgressguardError("the order is written down, but the rules are not loaded: start egressguard, "
                               "which carries it out")
    enforcement.apply(now_s())
    raise_faults(enforcement)


def raise_faults(enforcement: Enforcement) -> None:
    """Raises EgressguardError when a table beside the router's does not stand as it should."""
    if enforcement.faults:
        raise EgressguardError("\n".join(f"{part}: {text}" for part, text in enforcement.faults.items()))


def order(kind: orders.Kind, reason: str, for_: str, host: str | None = None,
          destination: str | None = None) -> Order:
    """An order from what was typed. Raises EgressguardError, saying what would be right."""
    made = Order(kind, getpass.getuser(), reason, seconds(for_))
    if host is not None:
        made = replace(made, host=host_key(host))
    if destination is not None:
        made = replace(made, destination=str(address("--to", destination)))
    return made


def seconds(text: str, option: str = "--for") -> float:
    """The time in `30s`, `15m`, `2h` or `7d`; `option` names it in the error."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise EgressguardError(f"{option} {text!r}: write a time such as 30s, 15m, 2h or 7d")
    return float(int(found[1]) * UNITS_S[found[2]])


def host_key(text: str) -> Host:
    """The key of the host with the address in `text`."""
    return host_of(canonical_address(str(address("HOST", text.removesuffix("/64")))))


def address(option: str, text: str) -> object:
    """The address in `text`; `option` names it in the error."""
    try:
        return ip_address(text)
    except ValueError:
        raise EgressguardError(f"{option} {text!r}: is no address; give one such as 192.0.2.7") from None
