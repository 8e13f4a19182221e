"""What must outlive this process so that no old bulletin is taken for a new one: the marks, and our epoch.

A small file in the state folder, replaced as a whole. Without it everything works, but a bulletin that was
left before our start counts as new once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egressguard.boot import next_epoch
from egressguard.core.leases import Mark, marks_from_json, marks_to_json
from egressguard_milter.journal import line, logger

FILE = "marks.json"
EVERY_S = 1.0


class Marks:
    """The marks of an earlier process in `folder`, and this process's `epoch`."""

    def __init__(self, folder: Path, boot: str) -> None:
        self._path, self._boot = folder / FILE, boot
        found = self._load()
        epoch = found.get("epoch")
        self.epoch = next_epoch(epoch if type(epoch) is int else 0)
        self.found = marks_from_json(found, boot)
        self._kept: Mapping[str, Mark] | None = None
        self._kept_s = float("-inf")
        self._failing = False

    def keep(self, marks: Mapping[str, Mark], now_s: float) -> None:
        """Writes `marks` down if they changed, at most once a second."""
        if marks is self._kept or now_s - self._kept_s < EVERY_S:
            return
        self._kept, self._kept_s = marks, now_s
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps({**marks_to_json(marks, self._boot), "epoch": self.epoch}))
            new.replace(self._path)
        except OSError as error:
            if not self._failing:
                logger.error(line("marks_not_kept", path=self._path, reason=error.strerror,
                                  effect="after a restart an old bulletin may count once"))
            self._failing = True
        else:
            self._failing = False

    def _load(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
