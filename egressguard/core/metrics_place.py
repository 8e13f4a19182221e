"""Where a daemon serves its metrics, checked the same way in both configurations."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from egressguard.core.errors import Mistake

RIGHT = 'write ADDRESS:PORT, such as "127.0.0.1:9725", "unix:/absolute/path", or "" for none'
UNIX_PATH_LENGTH = 107  # sun_path of unix(7), less its final zero


@dataclass(frozen=True, slots=True)
class Place:
    """Either a path, or a host (an address) and a port."""

    path: str = ""
    host: str = ""
    port: int = 0


def place_of(text: str) -> Place | None:
    """The place in `text`, None for an empty one. Raises ValueError with what would be right."""
    if not text:
        return None
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > UNIX_PATH_LENGTH:
            raise ValueError(f"{text[:200]!r}: the path must be absolute, at most {UNIX_PATH_LENGTH} bytes")
        return Place(path=path)
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"{text[:200]!r}: {RIGHT}") from None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text[:200]!r}: the port must be 1 to 65535; {RIGHT}")
    return Place(host=str(address), port=int(port))


def place_mistakes(text: str) -> Iterator[Mistake]:
    """What is wrong with the setting `metrics`."""
    try:
        place_of(text)
    except ValueError as error:
        yield Mistake("metrics", str(error))
