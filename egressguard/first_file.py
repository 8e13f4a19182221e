"""Writes the file that `init` has made, for either program."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from egressguard.core.errors import ConfigError, EgressguardError


def write_first(config: Path, text: str, read: Callable[[Path], object], source: str, group: str) -> None:
    """Writes the file whole or not at all, and only if `read` can use it; for `group`, if there is one.

    Raises ConfigError with the mistakes in what `source` names, EgressguardError when it cannot be written.
    """
    new = config.with_name(config.name + ".new")
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, "utf-8")
        try:
            read(new)
        except ConfigError as error:
            raise ConfigError(source, error.mistakes) from error
        new.chmod(0o640)
        if os.geteuid() == 0:
            _give_to_group(new, group)
        new.rename(config)
    except OSError as error:
        raise EgressguardError(f"{config}: cannot be written: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)


def _give_to_group(path: Path, group: str) -> None:
    """To the daemon's group, which a package has made; without one only root reads it."""
    try:
        shutil.chown(path, group=group)
    except LookupError:
        return
