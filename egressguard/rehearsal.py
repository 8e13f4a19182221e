"""Has the running daemon try its channels: what its unit, user and credentials forbid shows nowhere else."""

import time
from collections.abc import Mapping
from pathlib import Path

from egressguard.boot import boot_id, now_s
from egressguard.configurations import Configurations
from egressguard.core.alerts import Alert
from egressguard.core.errors import EgressguardError
from egressguard.core.notify_settings import Notify
from egressguard.database import Database
from egressguard.deliverer import RESTART_S
from egressguard.notify import WHOLE_S
from egressguard.outbox import Outbox

LOOK_EVERY_S = 0.2
ANSWER_S = WHOLE_S + RESTART_S + 5.0


def rehearse(config: Path, path: Path, notify: Notify, alert: Alert) -> dict[str, str]:
    """Why each channel did not take `alert` from the daemon; empty where it did.

    Raises EgressguardError when the daemon delivers by something else than `notify`, or the database refuses.
    """
    database = Database(path, boot_id())
    try:
        current = Configurations(database, config).current(now_s())
        if current is not None and current.site.settings.notify != notify:
            raise EgressguardError(f"{config}: the running daemon has another [notify] in force: reload it "
                                   "first (systemctl reload egressguard)")
        return _outcomes(Outbox(database, boot_id()), alert, notify)
    finally:
        database.close()


def _outcomes(outbox: Outbox, alert: Alert, notify: Notify) -> dict[str, str]:
    numbers = outbox.post_tests(alert, notify.channels())
    try:
        return {channel: _silent(channel) if error is None else error
                for channel, error in _wait(outbox, numbers).items()}
    finally:
        for number in numbers.values():
            outbox.delivered(number)


def _wait(outbox: Outbox, numbers: Mapping[str, int]) -> dict[str, str | None]:
    until_s = now_s() + ANSWER_S
    while True:
        found = {channel: outbox.outcome(number) for channel, number in numbers.items()}
        if None not in found.values() or now_s() > until_s:
            return found
        time.sleep(LOOK_EVERY_S)


def _silent(channel: str) -> str:
    return (f"{channel}: the daemon has not tried it within {ANSWER_S:.0f} s; its log says why: "
            "journalctl -u egressguard")
