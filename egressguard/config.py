"""Reads the router's configuration file."""

from pathlib import Path

from egressguard.core.settings import Settings, mistakes
from egressguard.toml_file import read

DEFAULT_PATH = Path("/etc/egressguard/egressguard.toml")
RULES_FILE = "egressguard.nft"


def read_settings(path: Path) -> Settings:
    """The settings in `path`. Raises ConfigError with every mistake."""
    return read(path, Settings, mistakes)


def rules_path(settings: Settings) -> Path:
    """The rules file: the configured one, the installed package's, or the checkout's."""
    package = Path(__file__).parent
    folders = [Path(settings.rules)] if settings.rules else [package / "rules", package.parent / "rules"]
    return next((f / RULES_FILE for f in folders if (f / RULES_FILE).exists()), folders[0] / RULES_FILE)
