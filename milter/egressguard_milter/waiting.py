"""Waiting for MTAs: asleep, or for an instant awake when they answer sooner than a sleeper is woken.

On a processor that went idle, being woken costs 20 µs or more, three times for each message; an MTA that
waits for nothing else has said the next thing by then. Whether that is so is measured, not configured:
whoever stayed awake in vain sleeps the next time, then the next two, four, eight times and so on.
"""

import time
from collections.abc import Callable

AWAKE_S = 60e-6  # about what it costs to sleep and to be woken
MOST_SLEEPS = 1024  # between two tries, so that vain ones take less than a thousandth of the time
MOST_READY = 256  # asked for at once; room for 1,023 would be made otherwise, for each answer anew

Ready = list[tuple[int, int]]


class Waiting:
    """Waits with `poll`, which takes seconds and a number: epoll's, for example."""

    def __init__(self, poll: Callable[[float, int], Ready],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._poll, self._clock = poll, clock
        self._brisk = False  # the last sleep was shorter than staying awake would have been
        self._sleeps, self._penalty = 0, 1  # sleeps before the next try, and after it if in vain

    def wait(self, most_s: float) -> Ready:
        """Which descriptors are ready; none after `most_s`."""
        if self._sleeps:
            self._sleeps -= 1
            return self._poll(most_s, MOST_READY)
        if self._brisk:
            return self._awake() or self._poll(most_s, MOST_READY)
        began_s = self._clock()
        ready = self._poll(most_s, MOST_READY)
        self._brisk = self._clock() - began_s < AWAKE_S
        return ready

    def _awake(self) -> Ready:
        poll, clock = self._poll, self._clock
        until_s = clock() + AWAKE_S
        while clock() < until_s:
            if ready := poll(0.0, MOST_READY):
                self._penalty = 1
                return ready
        self._brisk = False
        self._sleeps, self._penalty = self._penalty, min(2 * self._penalty, MOST_SLEEPS)
        return []
