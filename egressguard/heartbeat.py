"""The daemon's pulse: a file under /run that is locked while it lives and rewritten in every round.

A lock cannot be left behind by a crash, so "is it running" needs no pid file and no guess. Whoever asks only
asks (F_OFD_GETLK) and takes no lock, and the file is for our own user alone: otherwise a reader could keep
the daemon from starting. The times in it are monotonic seconds of this boot; /run does not survive a boot.
"""

import fcntl
import json
import logging
import os
import struct
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from egressguard.core.canary import Run, run_of
from egressguard.core.errors import EgressguardError

log = logging.getLogger(__name__)
FILE = "router.heartbeat"
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The last round: when (monotonic seconds), how long it took, and what went wrong in it.

    `reports` maps each relay to when its newest report was first seen here. `canary` is the last one's run.
    """

    pid: int
    at_s: float
    round_s: float
    faults: dict[str, str] = field(default_factory=dict)
    reports: dict[str, float] = field(default_factory=dict)
    canary: Run | None = None


class Heartbeat:
    """The running daemon's side; holds the lock from the start to the end of the process."""

    def __init__(self, directory: Path) -> None:
        path = directory / FILE
        self._failing = False
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(self._fd, 0o600)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except BlockingIOError:
            raise EgressguardError(f"{path}: another egressguard runs with this runtime directory; "
                                   "stop it first") from None
        except OSError as error:
            raise EgressguardError(f"{path}: cannot be written: {error.strerror}") from error

    def beat(self, pulse: Pulse) -> None:
        """Puts `pulse` in place of the last one, in one write, padded so that no longer text remains."""
        data = json.dumps(asdict(pulse)).encode()
        try:
            os.pwrite(self._fd, data.ljust(os.fstat(self._fd).st_size), 0)
        except OSError as error:  # a full /run must not end the rounds; `status` will call us stalled
            if not self._failing:
                log.error("heartbeat: %s", error.strerror)
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._fd)


def read(directory: Path) -> tuple[bool, Pulse | None]:
    """Whether the daemon runs, and its last pulse if one can be read."""
    try:
        fd = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False, None
    try:
        return _locked(fd), _pulse(os.pread(fd, 1 << 20, 0))
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _pulse(data: bytes) -> Pulse | None:
    try:
        found = json.loads(data)
        return replace(Pulse(**found), canary=run_of(found.get("canary")))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
