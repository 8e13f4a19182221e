"""Reads the router's configuration file, and what it names outside: the rules, and users."""

import pwd
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from egressguard.core.errors import Mistake
from egressguard.core.mistakes import mistakes
from egressguard.core.settings import Settings
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
    settings = parse(text, path, Settings, _mistakes)
    if rules is not None:
        settings = replace(settings, rules=str(rules))
    uids = tuple(pwd.getpwnam(name).pw_uid for name in settings.own.users)
    return Site(settings, _rules(settings), uids, text)


def _rules(settings: Settings) -> Path:
    """The rules file: the configured one, the installed package's, or the checkout's."""
    package = Path(__file__).parent
    folders = [Path(settings.rules)] if settings.rules else [package / "rules", package.parent / "rules"]
    return next((f / RULES_FILE for f in folders if (f / RULES_FILE).exists()), folders[0] / RULES_FILE)


def _mistakes(settings: Settings) -> Iterator[Mistake]:
    """Those that the file alone shows, and those that this machine shows."""
    yield from mistakes(settings)
    for name in settings.own.users:
        try:
            pwd.getpwnam(name)
        except (KeyError, ValueError):
            yield Mistake("own.users", f"{name!r} is no user of this machine (`getent passwd`)")
