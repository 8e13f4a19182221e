"""The URL of an exchange, checked the same way in both configurations and when it is opened.

    sqlite:/absolute/path
    valkeys://USER@ADDRESS[:PORT][,ADDRESS[:PORT]…]?password=FILE&ca=FILE[&name=NAME]

`redis` means the same as `valkey`; the s stands for TLS. Several addresses are one server and its replicas:
whichever is the primary is used. Addresses are literals, because a name would be asked of the DNS, which has
no deadline; `name` is what the certificate says if it does not say the address.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

from egressguard.core.errors import Mistake

SERVER_SCHEMES = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
PORT = 6379
CREDENTIAL = "credential:"
RIGHT = ("write sqlite:/absolute/path/to/file, or "
         "valkeys://USER@ADDRESS:PORT?password=FILE&ca=FILE (docs/exchange.md)")


@dataclass(frozen=True, slots=True)
class SqlitePlace:
    """An exchange in one file."""

    path: str


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """An exchange on a Valkey or Redis server; files are absolute paths, or `credential:NAME`."""

    addresses: tuple[tuple[str, int], ...]
    tls: bool
    user: str = ""
    password: str = ""
    ca: str = ""
    name: str = ""


def parse(url: str) -> SqlitePlace | ServerPlace:
    """Where `url` leads. Raises ValueError, saying what would be right."""
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest.startswith("/"):
        return SqlitePlace(rest)
    if scheme not in SERVER_SCHEMES or not rest.startswith("//"):
        raise ValueError(f"{url[:200]!r} is no exchange: {RIGHT}")
    return _server(url, SERVER_SCHEMES[scheme])


def sqlite_path(url: str) -> str | None:
    """The file of a `sqlite:` URL; None for a server. Raises ValueError, saying what would be right."""
    place = parse(url)
    return place.path if isinstance(place, SqlitePlace) else None


def url_mistakes(url: str, key: str) -> Iterator[Mistake]:
    """The mistakes in the configuration keys `exchange` and `exchange_key`."""
    if key and not is_file(key):
        yield Mistake("exchange_key", f"{key[:80]!r}: write an absolute path, or {CREDENTIAL}NAME")
    try:
        place = parse(url)
    except ValueError as error:
        yield Mistake("exchange", str(error))
        return
    if isinstance(place, ServerPlace) and not key:
        yield Mistake("exchange_key", "is missing: what comes over a network must be signed; make a key with "
                      "`egressguard exchange-setup --new-key`")


def is_file(name: str) -> bool:
    """Whether `name` is an absolute path, or a credential that systemd hands over."""
    return name.startswith("/") or (name.startswith(CREDENTIAL) and "/" not in name
                                    and len(name) > len(CREDENTIAL))


def _server(url: str, tls: bool) -> ServerPlace:
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.path not in ("", "/") or parts.fragment or ":" in user:
        raise ValueError(f"{url[:200]!r} has what no exchange needs: {RIGHT}")
    for name, value in options.items():
        if name not in ("password", "ca", "name"):
            raise ValueError(f"option {name[:80]!r} is unknown: {RIGHT}")
        if name != "name" and not is_file(value):
            raise ValueError(f"option {name}: {value[:80]!r}: write an absolute path, or {CREDENTIAL}NAME")
    if tls and "ca" not in options:
        raise ValueError("option ca is missing: name the file with the certificate that the server's is "
                         "verified against")
    if not tls and ("ca" in options or "name" in options):
        raise ValueError("options ca and name belong to TLS: write valkeys:// or rediss://")
    return ServerPlace(tuple(map(_address, hosts.split(","))), tls, unquote(user),
                       options.get("password", ""), options.get("ca", ""), options.get("name", ""))


def _address(text: str) -> tuple[str, int]:
    """`192.0.2.1`, `192.0.2.1:6379` or `[2001:db8::1]:6379`."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "")
    try:
        address = str(ip_address(host.removeprefix("[").removesuffix("]")))
        number = int(port) if port else PORT
    except ValueError:
        number, address = 0, ""
    if not 0 < number < 65536:
        raise ValueError(f"{text[:80]!r} is no address of a server: write 192.0.2.1:6379 or "
                         "[2001:db8::1]:6379; a host name would be asked of the DNS, which has no deadline")
    return address, number
