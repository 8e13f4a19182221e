"""The site's keys in a file, or handed over by systemd; read again when the file changes.

So a key is changed without a restart: write the file on every host, one after the other.
"""

import os
from pathlib import Path

from egressguard.core.errors import ExchangeError
from egressguard.core.exchange_url import CREDENTIAL
from egressguard.core.signing import UNSIGNED, Keyring, parse_keys

MAX_LENGTH = 65536


def secret_path(name: str) -> Path:
    """The file of `/absolute/path` or `credential:NAME` (systemd's LoadCredential). Raises ExchangeError."""
    if not name.startswith(CREDENTIAL):
        return Path(name)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ExchangeError(f"exchange: {name}: systemd has handed over no credentials; add "
                            "LoadCredential= to the unit")
    return Path(folder) / name.removeprefix(CREDENTIAL)


def read_secret(name: str) -> str:
    """The text of a file that others must not read. Raises ExchangeError."""
    path = secret_path(name)
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o007:
                raise ExchangeError(f"exchange: {path}: everybody may read it: chmod 640")
            return file.read(MAX_LENGTH)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise ExchangeError(f"exchange: {path}: {reason}") from error


class KeyFile:
    """The keys in the file `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: tuple[int, int, int] | None = None
        self._keyring = UNSIGNED

    def keyring(self) -> Keyring:
        """The keys as they are now; the same object as long as the file is the same. Raises ExchangeError."""
        path = secret_path(self._name)
        try:
            stat = path.stat()
        except OSError as error:
            raise ExchangeError(f"exchange: {path}: {error.strerror}") from error
        seen = stat.st_mtime_ns, stat.st_ino, stat.st_size
        if seen != self._seen:
            try:
                self._keyring = parse_keys(read_secret(self._name))
            except ValueError as error:
                raise ExchangeError(f"exchange: {path}: {error}") from None
            self._seen = seen
        return self._keyring
