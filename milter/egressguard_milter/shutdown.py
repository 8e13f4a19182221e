"""A stop is quick and clean, because libmilter's own is neither: it takes up to 5 s and can hang.

The signals are blocked before the first thread starts, so that only the waiting thread gets them; it
runs the last steps and leaves with `os._exit`, past libmilter. Should libmilter's own signal thread be
given the signal, `serve` returns and the main thread runs the same steps.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable

from egressguard_milter.journal import line, logger

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def block_signals() -> None:
    """Call before any thread starts: threads inherit the mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


class Shutdown:
    """Runs `last_steps` once, whoever begins, and ends the process with exit code 0."""

    def __init__(self, last_steps: Callable[[], None]) -> None:
        self._last_steps = last_steps
        self._begun = threading.Lock()

    def start(self) -> None:
        """Waits for a stop signal in a thread of its own.

        Started before libmilter's signal thread, it comes first in the kernel's search for a receiver.
        """
        threading.Thread(target=self._wait, name="shutdown", daemon=True).start()

    def finish(self, reason: str) -> None:
        """Ends the process; does not return."""
        if not self._begun.acquire(blocking=False):
            threading.Event().wait()  # the other thread is at it
        try:
            self._last_steps()
            logger.info(line("stopped", reason=reason))
        except Exception:
            logger.exception(line("stop_failed"))
            os._exit(1)
        sys.stderr.flush()
        os._exit(0)

    def _wait(self) -> None:
        self.finish(signal.Signals(signal.sigwait(STOP_SIGNALS)).name)
