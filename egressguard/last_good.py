"""What a boot loads before anything else: the last rules and elements that the kernel took, as one nft file.

systemd/load-rules reads it with nft and sh alone, long before Python starts. It is written whole or not at
all, and its last line says that it is complete.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from egressguard.ownership import give_to_owner_of

FILE = "last-good.nft"
HEAD = "# Written by egressguard after its last successful change; a boot loads it. Edits are overwritten.\n"
END = "# complete\n"


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
        text = "".join(self._parts.values())
        if not all(self._parts.values()):
            return
        if text == self._kept and self._path.exists():
            return
        try:
            self._replace(HEAD + text + END)
        except OSError as error:
            self.fault = f"{self._path}: {error.strerror}; the next boot begins with older rules"
        else:
            self._kept, self.fault = text, ""

    def _replace(self, content: str) -> None:
        new = self._path.with_suffix(".new")
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            give_to_owner_of(self._path.parent, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        new.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)  # the rename itself, or a power loss could bring back the older file
        os.close(folder)
