"""Exposures as they are told and recorded: at once, or as soon as the database takes them."""

import logging
from collections.abc import Sequence

from egressguard.core.connections import Connection
from egressguard.core.exposure import MOST_SHOWN, Deviation, Exposure, Program
from egressguard.database import Database

log = logging.getLogger(__name__)

MOST_UNSAVED = 100


def exposure_of(wrong: Deviation, by: tuple[Program, ...], times_s: tuple[float, float, float],
                cut: Sequence[Connection]) -> Exposure:
    """What was `wrong` from when to when (began, noticed, ended), and which connections were ended for it."""
    return Exposure(wrong.text, wrong.loose, by, *times_s, tuple(map(str, cut[:MOST_SHOWN])), len(cut))


class Exposures:
    """`total` is how many there ever were, and their seconds."""

    def __init__(self, database: Database) -> None:
        self.total = 0, 0.0
        self._database = database
        self._unsaved: list[Exposure] = []

    def start(self) -> None:
        """Takes up what history knows. Raises DatabaseError."""
        self.total = self._database.exposed()

    def note(self, exposure: Exposure, now_s: float) -> None:
        """Records one. Raises DatabaseError, and tries again with the next `save`."""
        count, seconds = self.total
        self.total = count + 1, seconds + exposure.end_s - exposure.start_s
        log.error("exposure %s", exposure.describe())
        self._unsaved = [*self._unsaved, exposure][-MOST_UNSAVED:]
        self.save(now_s)

    def save(self, now_s: float) -> None:
        """Records what could not be recorded before. Raises DatabaseError."""
        while self._unsaved:
            self._database.expose(self._unsaved[0], now_s)
            self._unsaved = self._unsaved[1:]
