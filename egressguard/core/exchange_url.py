"""The URL of an exchange, checked the same way in both configurations and when it is opened."""

from collections.abc import Iterator

from egressguard.core.errors import Mistake


def sqlite_path(url: str) -> str:
    """The absolute path in `sqlite:/path`. Raises ValueError, saying what would be right, otherwise."""
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not path.startswith("/"):
        raise ValueError(f"{url!r} is no exchange: write sqlite:/absolute/path/to/file")
    return path


def url_mistakes(url: str) -> Iterator[Mistake]:
    """The mistake in the configuration key `exchange`, if there is one."""
    try:
        sqlite_path(url)
    except ValueError as error:
        yield Mistake("exchange", str(error))
