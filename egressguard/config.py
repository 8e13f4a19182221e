"""Reads the router's configuration file, and what it names outside: the rules, and users."""

import pwd
from dataclasses import dataclass, replace
from pathlib import Path

from egressguard.core.errors import ConfigError, Mistake
from egressguard.core.settings import Settings, mistakes
from egressguard.toml_file import parse, read_text

DEFAULT_PATH = Path("/etc/egressguard/egressguard.toml")
RULES_FILE = "egressguard.nft"


@dataclass(frozen=True, slots=True)
class Site:
    """A configuration (`text` as it was read) with what it names outside: the rules file, and the numbers of
    `own.users`.
    """

    settings: Settings
    rules: Path
    uids: tuple[int, ...] = ()
    text: str = ""


def read_site(path: Path) -> Site:
    """The site that is configured in `path`. Raises ConfigError with every mistake."""
    return site_of(read_text(path, "egressguard"), path)


def site_of(text: str, path: Path, rules: Path | None = None) -> Site:
    """The site that `text`, once read from `path`, configures; with the rules in another folder, if given."""
    settings = parse(text, path, Settings, mistakes)
    if rules is not None:
        settings = replace(settings, rules=str(rules))
    return Site(settings, _rules(settings), _uids(path, settings), text)


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
