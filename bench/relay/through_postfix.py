"""Through one Postfix, which listens on a port for each limiter; what it accepts it discards.

Its queue lies in memory: waiting for a disk would make all limiters look alike.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lab.namespaces import Namespace, wait_until
from lab.postfix import Postfix

FIRST_PORT = 2600
SESSIONS = 20
MEMORY = "/dev/shm"
SETTINGS = {"default_transport": "discard:"}
NONE = "no milter"
SERVICE = "{port} inet n - n - - smtpd -o {{ {setting} }}\n"


@dataclass(frozen=True)
class Row:
    """One limiter: messages per second, and that relative to Postfix without any."""

    limiter: str
    per_second: float
    ratio: float


def milter(path: Path) -> str:
    """The parameter that makes an smtpd ask a milter.

    A unix socket: over TCP the end of each message waits 40 ms for a delayed acknowledgement, whatever the
    milter, unless it hears DATA (Postfix sends macros of stages that nobody answers, and more behind them).
    """
    return f"smtpd_milters=unix:{path}"


def policy(port: int) -> str:
    """The parameter that makes an smtpd ask a policy service."""
    return (f"smtpd_recipient_restrictions=check_policy_service inet:127.0.0.1:{port}, "
            "permit_mynetworks, reject")


def measure(namespace: Namespace, settings: Mapping[str, str], *, messages: int, rounds: int) -> list[Row]:
    """Every limiter in turns; `settings` names the smtpd parameter of each."""
    variants = {NONE: "smtpd_milters=", **settings}
    ports = {name: FIRST_PORT + n for n, name in enumerate(variants)}
    services = "".join(SERVICE.format(port=ports[name], setting=variants[name]) for name in variants)
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    folder = Path(tempfile.mkdtemp(prefix="eg-bench-", dir=MEMORY))
    try:
        with Postfix(namespace, settings=SETTINGS, services=services, folder=folder) as postfix:
            for name in variants:  # smtpd processes and connections are made
                _run(namespace, postfix, ports[name], SESSIONS * 5)
            for _ in range(rounds):
                for name in variants:
                    speeds[name].append(_run(namespace, postfix, ports[name], messages))
    finally:
        shutil.rmtree(folder)
    return [Row(name, median(found), median(a / b for a, b in zip(found, speeds[NONE], strict=True)))
            for name, found in speeds.items()]


def _run(namespace: Namespace, postfix: Postfix, port: int, messages: int) -> float:
    """Messages per second, over SESSIONS connections that are kept open."""
    begin = time.monotonic()
    namespace.run(["smtp-source", "-d", "-s", str(SESSIONS), "-m", str(messages), "-l", "500",
                   "-f", "sender@inside.example", "-t", "somebody@outside.example", f"127.0.0.1:{port}"])
    speed = messages / (time.monotonic() - begin)
    wait_until(lambda: postfix.queued() == 0, "the queue to be empty", timeout_s=120)
    return speed
