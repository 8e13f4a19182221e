"""What a boot loads before anything else: the last rules and elements that the kernel took, as one nft file.

systemd/load-rules reads it with nft and sh alone, long before Python starts. It is written whole or not at
all, and its last line says that it is complete.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from egressguard.ownership import give_to_owner_of

FILE = "last-good.nft"
HEAD = "# Written by egressguard after its last successful change; a boot loads it. Edits are overwritten.\n"
END = "# complete\n"
STOOD = "# stood"
NEW, LEFT_S = ".new", 600.0


class LastGood:
    """The file in `folder`, which holds a table of each of `families`."""

    def __init__(self, folder: Path, families: Iterable[str] = ("inet",)) -> None:
        self._path = folder / FILE
        self._parts = dict.fromkeys(families, "")
        self._kept = ""
        self.fault = ""

    def keep(self, part: str, family: str) -> None:
        """Puts `part`, an nft transaction for an empty kernel, in place of the last one of its table.

        Written once every table has its part. What fails stands in `fault`: enforcement goes on, only the
        next boot would begin with older rules.
        """
        self._parts[family] = part
        self._write()

    def heal(self) -> None:
        """Tries again what could not be written."""
        if self.fault:
            self._write()

    def fingerprint(self, family: str) -> str:
        """That of the rules which the last writer saw standing in the kernel; empty when nobody has said."""
        try:
            with self._path.open(encoding="utf-8") as file:
                return next((line.split()[-1] for line in file if line.startswith(f"{STOOD} {family} ")), "")
        except OSError:
            return ""

    def _write(self) -> None:
        text = "".join(self._parts.values())
        if not all(self._parts.values()) or (text == self._kept and self._path.exists()):
            return
        try:
            self._replace(HEAD + text + END)
        except OSError as error:
            self.fault = f"{self._path}: {error.strerror}; the next boot begins with older rules"
        else:
            self._kept, self.fault = text, ""

    def _replace(self, content: str) -> None:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._clean()
        # The daemon and a command may write at one instant: each has its own file, and the later one stays.
        descriptor, new = mkstemp(NEW, f"{self._path.stem}.", self._path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o640)
                give_to_owner_of(self._path.parent, descriptor)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            Path(new).rename(self._path)
        except OSError:
            Path(new).unlink(missing_ok=True)
            raise
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)  # the rename itself, or a power loss could bring back the older file
        os.close(folder)

    def _clean(self) -> None:
        """Removes what a writer that was killed has left."""
        for left in self._path.parent.glob(f"{self._path.stem}.*{NEW}"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > LEFT_S:
                    left.unlink()
