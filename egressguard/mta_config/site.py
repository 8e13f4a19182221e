"""The addresses and times that a site fills into the how-to, checked all at once."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from egressguard.core.errors import ConfigError, Mistake

Network = IPv4Network | IPv6Network

HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]",
                       re.IGNORECASE | re.ASCII)
DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SOCKET = "inet:PORT@ADDRESS (for example inet:8892@127.0.0.1) or unix:/absolute/path"
# sun_path of unix(7) holds 107 bytes; and no character that m4 or Postfix would read as more than a path.
PATH = re.compile(r"/[\w./+-]{1,106}", re.ASCII)
WIDEST = {4: 8, 6: 16}


@dataclass(frozen=True, slots=True)
class Milter:
    """Where the milter listens: a path, or an address and a port."""

    path: str = ""
    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Site:
    """`relays` are addresses or names, first choice first; times are written as `15m`."""

    relays: tuple[str, ...]
    networks: tuple[Network, ...]
    milter: Milter
    queue_run: str
    queue_age: str


def site(role: str, relays: Sequence[str], networks: Sequence[str], milter: str,
         queue_run: str, queue_age: str) -> Site:
    """What the options say. Raises ConfigError with every mistake, and what would be right."""
    found = [*_role_mistakes(role, relays, networks), *_relay_mistakes(relays), *_network_mistakes(networks),
             *_milter_mistakes(milter), *_time_mistakes(queue_run, queue_age)]
    if found:
        raise ConfigError("mta-config", found)
    return Site(tuple(relays), tuple(map(ip_network, networks)), _milter(milter), queue_run, queue_age)


def is_address(name: str) -> bool:
    """Whether `name` is an IP address and no host name."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def seconds(duration: str) -> int:
    """How long `15m` is."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def _role_mistakes(role: str, relays: Sequence[str], networks: Sequence[str]) -> Iterator[Mistake]:
    if role == "client" and not relays:
        yield Mistake("--relay", "is missing: give the relay's address, such as --relay 192.0.2.10")
    if role == "client" and networks:
        yield Mistake("--network", "belongs to --role relay: a client lets nobody relay")
    if role == "relay" and not networks:
        yield Mistake("--network", "is missing: give the clients' network, such as --network 198.51.100.0/24")
    if role == "relay" and relays:
        yield Mistake("--relay", "belongs to --role client: a relay delivers by itself")


def _relay_mistakes(relays: Sequence[str]) -> Iterator[Mistake]:
    for name in relays:
        if is_address(name):
            address = ip_address(name)
            if address.is_unspecified or address.is_multicast:
                yield Mistake("--relay", f"{name} is no host's address; give the relay's own")
        elif not HOST_NAME.fullmatch(name):
            yield Mistake("--relay", f"{name[:80]!r} is neither an address nor a full host name; write "
                                     "192.0.2.10, 2001:db8::10 or relay.example, without brackets and port")


def _network_mistakes(networks: Sequence[str]) -> Iterator[Mistake]:
    for text in networks:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            yield Mistake("--network", f"{text[:80]!r} is no network; write 198.51.100.0/24 or 2001:db8::/48")
            continue
        if ip_address(text.partition("/")[0]) != network.network_address:
            yield Mistake("--network", f"{text} is one address with a network's length; "
                                       f"the network is {network}")
        elif network.prefixlen < WIDEST[network.version]:
            yield Mistake("--network", f"{network} would make an open relay; the widest is "
                                       f"/{WIDEST[network.version]}")


def _milter_mistakes(text: str) -> Iterator[Mistake]:
    try:
        _milter(text)
    except ValueError:
        yield Mistake("--milter", f"{text[:120]!r} is no socket of egressguard-milter; write {SOCKET}")


def _milter(text: str) -> Milter:
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local") and PATH.fullmatch(rest):
        return Milter(path=rest)
    port, _, host = rest.partition("@")
    address = "127.0.0.1" if host == "localhost" else str(ip_address(host.strip("[]")))
    if kind not in ("inet", "inet6") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(text)
    return Milter(address=address, port=int(port))


def _time_mistakes(queue_run: str, queue_age: str) -> Iterator[Mistake]:
    wrong = [(option, value) for option, value in (("--queue-run", queue_run), ("--queue-age", queue_age))
             if not DURATION.fullmatch(value)]
    for option, value in wrong:
        yield Mistake(option, f"{value[:80]!r} is no time; write 5m, 90s or 1h")
    if not wrong and seconds(queue_run) > seconds(queue_age):
        yield Mistake("--queue-run", f"{queue_run} is longer than --queue-age {queue_age}: what is due would "
                                     "wait for the queue runner; let it run at least as often")
