"""A mail server whose way out is shut: what is in its queue is tried again as its program does by default."""

import heapq
import random
from collections.abc import Callable, Iterator

from bench.judge.parameters import Parameters

PARALLEL_PER_S = 60  # refused connections cost nothing: Postfix' 100 processes are through in seconds
PROVIDERS = [[f"p{n}.{a}" for a in range(size)] for n, size in enumerate((5, 5, 2, 4, 2, 3, 1, 1))]
GIVE_UP_S = 5 * 86400.0  # postconf -d maximal_queue_lifetime; sendmail's Timeout.queuereturn


Message = tuple[float, list[str]]  # when it was born, and the addresses of its domain
Next = Callable[[float, float], float]  # (born, now) → when it is tried again


def scan(at_s: float, every_s: float) -> float:
    """The first queue run at or after `at_s`."""
    return -(-round(at_s) // every_s) * every_s


def postfix(born_s: float, now_s: float) -> float:
    """Postconf -d: minimal_backoff_time 300, maximal 4000, doubling with age; scans each 300 s
    (queue_run_delay).
    """
    return scan(now_s + min(max(now_s - born_s, 300.0), 4000.0), 300.0)


def sendmail(every_s: float) -> Next:
    """Every queue run tries everything; 10 min is Debian's, an hour many others'."""
    return lambda _, now_s: scan(now_s + 1.0, every_s)


def exim(born_s: float, now_s: float) -> float:
    """The default rule F,2h,15m; G,16h,1h,1.5; F,4d,6h at queue runs each 30 min (-q30m)."""
    age_s = now_s - born_s
    wait_s = 900.0 if age_s < 7200 else max(3600.0, age_s * 0.5) if age_s < 16 * 3600 else 6 * 3600.0
    return scan(now_s + wait_s, 1800.0)


class Server:
    """A mail server with a queue, and more mail coming."""

    def __init__(self, rng: random.Random, p: Parameters) -> None:
        self._rng = rng
        size = rng.randint(int(p.queue_domains[0]), int(p.queue_domains[1]))
        share = rng.uniform(*p.at_providers)
        self.domains = [self._domain(n, share) for n in range(size)]
        self._more = [self._domain(n, share) for n in range(size, 3 * size)]
        self._per_s = rng.uniform(*p.mail_per_hour) / 3600
        self._next = rng.choice((postfix, sendmail(600.0), sendmail(3600.0), exim))

    def _domain(self, number: int, at_providers: float) -> list[str]:
        rng = self._rng
        if rng.random() < at_providers:
            return PROVIDERS[min(int(rng.expovariate(0.6)), len(PROVIDERS) - 1)]
        return [f"d{number}.{rng.randrange(10**6)}.{n}" for n in range(rng.choice((1, 1, 1, 2, 2, 3)))]

    def visits(self, until_s: float) -> Iterator[tuple[float, list[str]]]:
        """From the moment at which the way is shut until somebody repairs it."""
        due: dict[float, list[Message]] = {0.0: [(0.0, addresses) for addresses in self.domains]}
        times = [0.0]  # most messages wait for a common queue run, so only the runs are sorted
        for at_s, addresses in self._arrivals(until_s):
            due.setdefault(at_s, []).append((at_s, addresses))
            heapq.heappush(times, at_s)
        while times and times[0] < until_s:
            now_s = heapq.heappop(times)
            messages = due.pop(now_s, [])
            for born_s, addresses in messages:
                again_s = self._next(born_s, now_s)
                if again_s - born_s >= GIVE_UP_S:
                    continue
                if again_s not in due:
                    due[again_s] = []
                    heapq.heappush(times, again_s)
                due[again_s].append((born_s, addresses))
            tried = dict.fromkeys(address for _, addresses in messages for address in addresses)
            yield from self._in_portions(now_s, list(tried))

    def _in_portions(self, now_s: float, tried: list[str]) -> Iterator[tuple[float, list[str]]]:
        self._rng.shuffle(tried)
        for n in range(0, len(tried), PARALLEL_PER_S):
            yield now_s + n / PARALLEL_PER_S, tried[n:n + PARALLEL_PER_S]

    def _arrivals(self, until_s: float) -> Iterator[tuple[float, list[str]]]:
        at_s = self._rng.expovariate(self._per_s)
        while at_s < until_s:
            known = self._rng.random() < 0.85
            yield at_s, self._rng.choice(self.domains if known else self._more)
            at_s += self._rng.expovariate(self._per_s)
