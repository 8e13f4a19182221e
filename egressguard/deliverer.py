"""Takes alerts out of the outbox, in a process of its own: nothing that a mail server, a webhook or a command
does can hold up a round, and nothing it brings down is the daemon.

    python -m egressguard.deliverer     (what to do comes as one line of JSON on standard input)

It gives its capabilities up, is as nice as can be, and ends when its standard input does: with the daemon.
Each channel has a thread, so that one that hangs does not keep the others waiting, and one for tests.
"""

import ctypes
import json
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from egressguard.boot import boot_id
from egressguard.core.errors import DatabaseError
from egressguard.core.notify_settings import Notify
from egressguard.database import Database
from egressguard.notify import NotDelivered, deliver
from egressguard.outbox import TEST, Outbox
from egressguard.own_program import own_program

log = logging.getLogger(__name__)
libc = ctypes.CDLL(None, use_errno=True)
LOOK_EVERY_S = 1.0
FIRST_RETRY_S, LAST_RETRY_S = 5.0, 600.0
RESTART_S = 30.0
NICE = 19
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4  # linux/prctl.h
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
Work = Callable[[Outbox, str, str, Notify], None]


class Deliverer:
    """The daemon's side: keeps such a process alive while there are channels. Never raises."""

    def __init__(self, database: Path, router: str) -> None:
        self._database, self._router = database, router
        self._process: subprocess.Popen[bytes] | None = None
        self._notify: Notify | None = None
        self._started_s = float("-inf")

    def step(self, notify: Notify, now_s: float) -> None:
        """Starts it, or starts it anew with other settings, or after its death; waits for nothing."""
        if self._process is not None and (self._process.poll() is not None or notify != self._notify):
            self.close()
        due = notify != self._notify or now_s - self._started_s >= RESTART_S
        if self._process is None and notify.channels() and due:
            self._notify, self._started_s = notify, now_s
            try:
                self._start(notify)
            except OSError as error:
                log.error("alerts are not delivered: %s", error)

    def _start(self, notify: Notify) -> None:
        # What a unit gives a daemon without root would go on to its child; the daemon itself keeps it.
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        self._process = subprocess.Popen(
            own_program(__name__), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/")
        orders = {"database": str(self._database), "router": self._router, "notify": asdict(notify)}
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(orders).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends it."""
        if self._process is not None:
            with suppress(OSError):
                if self._process.stdin is not None:
                    self._process.stdin.close()
            self._process.kill()
            self._process.wait()
        self._process = None


def main() -> None:
    """The process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    orders = json.loads(sys.stdin.readline())
    with suppress(OSError):  # a unit may forbid it
        os.nice(NICE)
    give_up_capabilities()
    notify = TypeAdapter(Notify).validate_python(orders["notify"])
    for channel in notify.channels():
        for work in (partial(_deliver, due_s={}), _try):
            threading.Thread(
                target=serve, args=(work, channel, Path(orders["database"]), orders["router"], notify),
                name=channel, daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # a delivery that is under way is made again


def serve(work: Work, channel: str, path: Path, router: str, notify: Notify) -> None:
    """Does `work` for `channel`, for ever."""
    while True:
        try:
            database = Database(path, boot_id())
            try:
                work(Outbox(database, boot_id()), channel, router, notify)
            finally:
                database.close()
        except DatabaseError as error:
            log.error("%s: %s", channel, error)
        time.sleep(LOOK_EVERY_S)


def _deliver(outbox: Outbox, channel: str, router: str, notify: Notify, due_s: dict[int, float]) -> None:
    for waiting in outbox.waiting(channel):
        if due_s.get(waiting.number, 0.0) > time.monotonic():
            continue
        try:
            deliver(channel, waiting.alert, waiting.number, router, notify)
        except NotDelivered as error:
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(waiting.tries, 10))
            due_s[waiting.number] = time.monotonic() + wait_s
            log.error("alert=%d tried again in %.0f s: %s", waiting.number, wait_s, error)
            outbox.tried(waiting.number, str(error))
        else:
            due_s.pop(waiting.number, None)
            outbox.delivered(waiting.number)


def _try(outbox: Outbox, channel: str, router: str, notify: Notify) -> None:
    """Tries each test once; whoever has asked for it takes it out."""
    for test in outbox.waiting(TEST + channel):
        if test.tries:
            continue
        try:
            deliver(channel, test.alert, test.number, router, notify)
        except NotDelivered as error:
            outbox.tried(test.number, str(error))
        else:
            outbox.tried(test.number, "")


def give_up_capabilities() -> None:
    """The right to change the ruleset is for nobody who talks to the outside (capset(2)).

    Without new privileges root's next program does not get them back either (prctl(2)).
    """
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A unit may forbid it; then there are none left.
    libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24))
    status = Path("/proc/self/status").read_text("ascii")
    if any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("CapPrm", "CapEff"))):
        raise OSError("the capabilities could not be given up: alerts are not delivered")


if __name__ == "__main__":
    main()
