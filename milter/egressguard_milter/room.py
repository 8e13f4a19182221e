"""How many connections there are descriptors for: the only file with the process's own limits.

A cap above what the kernel gives is no cap: the one that runs out first is that of everything, and one client
could take the last descriptor from the others, the counts and the exchange.
"""

import math
import resource
from dataclasses import replace

from egressguard_milter.journal import line, logger
from egressguard_milter.policy import Policy

FILES = 128  # the exchange, the counts, the control socket, the metrics, and the connections of one turn
WAITING_PART = 5  # one connection of so many may be of nobody that was let in
LEAST_WAITING = 64


class Room:
    """What of a policy's `max_sessions` this process can keep; `fault` says so when it is not all."""

    def __init__(self) -> None:
        self.fault = ""
        self.waiting = LEAST_WAITING  # connections of nobody that was let in

    def fitted(self, policy: Policy) -> Policy:
        """`policy` with caps that hold: no more clients than descriptors, none with over half of them."""
        wanted = policy.max_sessions
        files = _files(FILES + LEAST_WAITING + math.ceil(wanted * WAITING_PART / (WAITING_PART - 1)))
        self.waiting = max(LEAST_WAITING, (files - FILES) // WAITING_PART)
        sessions = max(1, min(wanted, files - FILES - self.waiting))
        self.fault = "" if sessions == wanted else (
            f"room for {sessions} connections, not for max_sessions = {wanted}: {files} files may be open")
        return replace(policy, max_sessions=sessions,
                       max_sessions_per_client=min(policy.max_sessions_per_client, max(1, sessions // 2)))

    def say(self) -> None:
        """Logs what was not possible."""
        if self.fault:
            logger.warning(line("connections_bounded", reason=self.fault, effect="more are put off"))


def _files(needed: int) -> int:
    """How many files may be open, after asking for `needed` as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return needed if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):  # a unit's SystemCallFilter, for example: LimitNOFILE= is its way
        return soft
    return allowed
