"""What is logged about decisions: one line for each client, key and limit in a while, the rest counted.

A client over its limit retries for hours, and an attacker has many addresses: neither may fill the disk.
"""

import time
from collections.abc import Callable

from egressguard_milter.decision import Decision
from egressguard_milter.journal import Repetitions, line, logger

LINES_PER_S = 100.0  # of all clients together; more are counted and said with the next line


class DecisionLog:
    """Writes decisions. For one thread."""

    def __init__(self) -> None:
        self._repetitions = Repetitions()
        self._tokens, self._at_s, self._dropped = LINES_PER_S, time.monotonic(), 0

    def say(self, event: str, decision: Decision, queue_id: Callable[[], str]) -> None:
        """Logs `decision` unless its client, key and limit had their line a short while ago."""
        now_s = time.monotonic()
        key = (event, decision.host, decision.key, decision.limit)
        suppressed = self._repetitions.suppressed(key, now_s)
        if suppressed is None or not self._spend(now_s):
            return
        dropped, self._dropped = self._dropped, 0
        fields = {"client": decision.host, "key": decision.key, "limit": decision.limit,
                  "most": decision.most, "used": decision.used, "window_s": decision.window_s,
                  "tier": decision.tier, "verdict": decision.verdict, "retry_s": decision.retry_s,
                  "queue_id": queue_id(), "suppressed": suppressed, "dropped": dropped}
        level = logger.info if decision.accepted else logger.warning
        level(line(event, **{name: value for name, value in fields.items() if value != ""}))

    def _spend(self, now_s: float) -> bool:
        self._tokens = min(LINES_PER_S, self._tokens + max(0.0, now_s - self._at_s) * LINES_PER_S)
        self._at_s = now_s
        if self._tokens < 1:
            self._dropped += 1
            return False
        self._tokens -= 1
        return True
