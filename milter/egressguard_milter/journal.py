"""One event is one line `event=… key=value …`; whatever a client wrote in it is bounded and escaped."""

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Hashable

logger = logging.getLogger("egressguard_milter")

MAX_VALUE_LENGTH = 300
REPEAT_S = 60.0
REMEMBERED_KEYS = 10_000
PLAIN = re.compile(r"[A-Za-z0-9_./:@+-]+")


def line(event: str, **fields: object) -> str:
    """The text of one event; values that are not plain words become JSON strings."""
    return " ".join([f"event={event}", *(f"{key}={_value(value)}" for key, value in fields.items())])


def _value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)[:MAX_VALUE_LENGTH]
    return text if PLAIN.fullmatch(text) else json.dumps(text)


class Repetitions:
    """Lets one line per key through in REPEAT_S seconds, and counts the others.

    Only the keys that had a line last are remembered. For one thread.
    """

    def __init__(self) -> None:
        self._said: OrderedDict[Hashable, list[float]] = OrderedDict()  # when, and how many times since

    def suppressed(self, key: Hashable, now_s: float) -> int | None:
        """None when `key` has had its line; otherwise how many were kept back since the last one."""
        said = self._said.get(key)
        if said is not None and now_s - said[0] < REPEAT_S:
            said[1] += 1
            return None
        self._said[key] = [now_s, 0]
        self._said.move_to_end(key)
        if len(self._said) > REMEMBERED_KEYS:
            self._said.popitem(last=False)
        return int(said[1]) if said else 0
