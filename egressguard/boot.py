"""Which boot this is, and its clock: monotonic seconds mean something only together with the boot."""

import time
from pathlib import Path


def boot_id() -> str:
    """The kernel's random name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def next_epoch(last: int) -> int:
    """A number for this start of a process, above `last`, which the one before had.

    Where `last` was lost (0), seconds on the wall clock take its place, so that it grows nevertheless.
    """
    return max(last + 1, int(time.time()))


def now_s() -> float:
    """Seconds on the monotonic clock, the same for every process of this boot; no one can set it."""
    return time.monotonic()
