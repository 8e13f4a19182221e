"""Reads the router's configuration file, and what it names outside: the rules, and users."""

import pwd
from dataclasses import dataclass
from pathlib import Path

from egressguard.core.errors import ConfigError, Mistake
from egressguard.core.settings import Settings, mistakes
from egressguard.toml_file import read

DEFAULT_PATH = Path("/etc/egressguard/egressguard.toml")
RULES_FILE = "egressguard.nft"


@dataclass(frozen=True, slots=True)
class Site:
    """A configuration with what it names outside: the rules file, and the numbers of `own.users`."""

    settings: Settings
    rules: Path
    uids: tuple[int, ...] = ()


def read_site(path: Path) -> Site:
    """The site that is configured in `path`. Raises ConfigError with every mistake."""
    settings = read(path, Settings, mistakes)
    return Site(settings, _rules(settings), _uids(path, settings))


def _rules(settings: Settings) -> Path:
    """The rules file: the configured one, the installed package's, or the checkout's."""
    package = Path(__file__).parent
    folders = [Path(settings.rules)] if settings.rules else [package / "rules", package.parent / "rules"]
    return next((f / RULES_FILE for f in folders if (f / RULES_FILE).exists()), folders[0] / RULES_FILE)


def _uids(path: Path, settings: Settings) -> tuple[int, ...]:
    uids, unknown = [], []
    for name in settings.own.users:
        try:
            uids.append(pwd.getpwnam(name).pw_uid)
        except KeyError:
            unknown.append(Mistake("own.users", f"{name!r} is no user of this machine (`getent passwd`)"))
    if unknown:
        raise ConfigError(str(path), unknown)
    return tuple(uids)
