"""The last life of the budgets' server that this relay knew: so one that was killed knows as much as one that
went on, and does not believe a primary of the past that the others have left.

A small file in the state folder, replaced as a whole before anything is taken in that life. Like the counts
(`segments.py`) it outlives SIGKILL.
"""

import re
from pathlib import Path
from typing import Protocol

from egressguard_milter.journal import line, logger

FILE = "life"
FORM = re.compile(r"\w{1,64}-\w{1,64} \d{1,15}")
LATEST = "unreadable-unreadable 999999999999999"  # later than any that a server has: it begins a new one


class LastLife(Protocol):
    """Where the last life is kept; `found` is that of an earlier process, "" if there was none."""

    found: str

    def keep(self, life: str) -> None:
        """Returns when a killed process cannot lose `life` any more; never raises."""


class Forgotten:
    """Keeps nothing."""

    found = ""

    def keep(self, life: str) -> None:
        """Keeps nothing."""


class LifeFile:
    """It in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.found = self._read()

    def keep(self, life: str) -> None:
        """See LastLife. When it cannot be written, that is said, and only this process still knows."""
        new = self._path.with_suffix(".new")
        try:
            new.write_text(life)
            new.replace(self._path)
        except OSError as error:
            logger.error(line("life_not_kept", path=self._path, reason=error.strerror,
                              effect="limits hold, but a restart may believe a primary of the past"))

    def _read(self) -> str:
        """What cannot be read may have been any life."""
        try:
            found = self._path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""
        except OSError:
            return LATEST
        return found if FORM.fullmatch(found) else LATEST
