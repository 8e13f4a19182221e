"""Simulated hosts: each is a stream of visits, with what is true about it.

A visit is (time, destinations tried at that moment, from which address); a relay's report is (time, Volume).
Streams are lazy, so a bot that has been found costs nothing more. Hosts that share or change addresses:
networks.py.
"""

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, groupby

from bench.judge.parameters import Parameters, Range
from bench.judge.queues import Server
from egressguard.core.verdict import Cause
from egressguard.core.volumes import Volume

DAY_S = 86400.0
MONTH_S = 30 * DAY_S
REPORT_S = 5.0  # a relay reports so often
OWN = "198.51.100.12"
Visit = tuple[float, list[str]] | tuple[float, list[str], str]  # from OWN where no address is given
Told = tuple[float, Volume]


@dataclass
class Simulated:
    """One host: its visits, what relays report of it, and the truth.

    `innocent_from_s` is when a spambot's address passes to others, `bot_from_s` when one's comes to a
    spambot.
    """

    visits: Iterator[Visit]
    truth: Cause
    horizon_s: float
    reports: Iterator[Told] = field(default_factory=lambda: iter(()))
    settling_until_s: float = 0.0
    innocent_from_s: float | None = None
    bot_from_s: float = 0.0


def drawn(rng: random.Random, bounds: Range) -> float:
    """A value from the range, uniformly."""
    return rng.uniform(*bounds)


def whole(rng: random.Random, bounds: Range) -> int:
    """A whole number from the range, its ends included."""
    return rng.randint(int(bounds[0]), int(bounds[1]))


class BotList:
    """A spammer's list: hardly an address twice, retried as this bot retries."""

    def __init__(self, rng: random.Random, p: Parameters) -> None:
        self._rng, self._repeats = rng, drawn(rng, p.bot_repeats)
        kind = rng.random()
        soon, late = kind < p.bot_retries_soon, kind > 1 - p.bot_retries_late
        self.retry: Range | None = (3, 50) if soon else (60, 1800) if late else None
        self._tried: list[str] = []
        self._number = count(rng.randrange(10**9))

    def next(self) -> str:
        """The next address to try."""
        if self._tried and self._rng.random() < self._repeats:
            return self._rng.choice(self._tried[-50:])
        self._tried.append(f"b{next(self._number)}")
        return self._tried[-1]


def _bot(rng: random.Random, p: Parameters, gaps: Iterator[float]) -> Iterator[Visit]:
    """Tries address after address with `gaps` between, and again what it retries."""
    book, again = BotList(rng, p), list[tuple[float, str]]()
    now_s = drawn(rng, (0, 100))
    for gap_s in gaps:
        now_s += gap_s
        while again and again[0][0] <= now_s:
            at_s, address = heapq.heappop(again)
            yield at_s, [address]
        address = book.next()
        yield now_s, [address]
        if book.retry is not None:
            heapq.heappush(again, (now_s + drawn(rng, book.retry), address))


def fast_bot(rng: random.Random, p: Parameters) -> Simulated:
    """Sends as fast as it can."""
    rate = drawn(rng, p.bot_per_second)
    return Simulated(_bot(rng, p, (rng.expovariate(rate) for _ in count())), Cause.SPAMBOT, 3600)


def bursty_bot(rng: random.Random, p: Parameters) -> Simulated:
    """Works through a portion of its list, then waits for the next."""
    rate, size = drawn(rng, p.bot_per_second), whole(rng, p.burst_size)
    gaps = (rng.expovariate(rate) if n % size else drawn(rng, p.burst_pause_s) for n in count(1))
    return Simulated(_bot(rng, p, gaps), Cause.SPAMBOT, DAY_S)


def slow_bot(rng: random.Random, p: Parameters) -> Simulated:
    """Stays under thresholds."""
    pace_s = 3600 / drawn(rng, p.slow_per_hour)
    timer = rng.random() < p.slow_by_timer
    gaps = (pace_s + rng.gauss(0, 0.5) if timer else rng.expovariate(1 / pace_s) for _ in count())
    return Simulated(_bot(rng, p, gaps), Cause.SPAMBOT, 2 * DAY_S)


def bot_on_a_mailing_host(rng: random.Random, p: Parameters) -> Simulated:
    """A bot on a web server that mails by the relay, before and meanwhile; it may use that door as well."""
    every_s, domains = drawn(rng, p.relay_every_s), whole(rng, p.relay_domains)
    both = rng.random() < p.bot_uses_both_doors

    def reports() -> Iterator[Told]:
        yield -3600.0, Volume(50, 0, 60, 1, 3, domains)
        own_s, bot_s = -rng.uniform(0, every_s), rng.uniform(0, REPORT_S) if both else math.inf
        while True:
            if own_s < bot_s:
                yield own_s, Volume(1, 0, 1, 0, 0, domains)
                own_s += rng.expovariate(1 / every_s)
            else:
                yield bot_s, Volume(1, 1, 1, 0, 1, domains)
                bot_s += REPORT_S
    made = rng.choice((fast_bot, bursty_bot))(rng, p)
    made.reports = reports() if p.reports else iter(())
    made.horizon_s = DAY_S
    return made


def application(rng: random.Random, p: Parameters, began_s: float, until_s: float) -> Iterator[Visit]:
    """Somebody's program with a smarthost of its own: each use tries its addresses in turn, some times."""
    addresses = [f"s{rng.randrange(10**9)}" for _ in range(whole(rng, p.smarthost_addresses))]
    tries, pace_s = whole(rng, p.tries_per_visit), DAY_S / drawn(rng, p.visits_per_day)
    at_s = began_s + rng.expovariate(1 / pace_s)
    while at_s < until_s:
        for n in range(tries):
            yield at_s + n * 3.0, list(addresses)
        at_s += tries * 3.0 + rng.expovariate(1 / pace_s)


def smarthost(rng: random.Random, p: Parameters) -> Simulated:
    """A hard-coded smarthost."""
    return Simulated(application(rng, p, 0, MONTH_S), Cause.APPLICATION, MONTH_S)


def monitoring(rng: random.Random, p: Parameters) -> Simulated:
    """Checks a few servers for ever: each at its own offset, or all in one go; Nagios is faster at first."""
    servers = [f"m{rng.randrange(10**9)}" for _ in range(whole(rng, p.probe_destinations))]
    every_s, together = drawn(rng, p.probe_interval_s), rng.random() < 0.5
    nagios = every_s >= 120 and rng.random() < 0.5

    def one(servers: list[str], at_s: float) -> Iterator[Visit]:
        for n in count():
            yield at_s + rng.gauss(0, 0.1), servers
            at_s += 60.0 if nagios and n < 3 else every_s
    streams = [one(servers, 1.0)] if together else [one([s], rng.uniform(0, every_s)) for s in servers]
    # After some days a cycle that never changes tells nothing more, and costs time.
    return Simulated(heapq.merge(*streams), Cause.PROBER, 4 * DAY_S)


def lost_mailertable(rng: random.Random, p: Parameters) -> Simulated:
    """A mail server that went by the relay, forgets how, and tries its whole queue by itself."""
    server = Server(rng, p)
    known = int(len(server.domains) * drawn(rng, p.record_over_queue))

    def reports() -> Iterator[Told]:
        yield -7200.0, Volume(500, 0, 600, 10, 20, known)
        yield -20.0, Volume(1, 0, 1, 0, 0, known)
        on_their_way = whole(rng, p.in_flight) if rng.random() < p.lost_in_delivery else 0
        ends = sorted(min(60.0, rng.expovariate(1 / p.transaction_s)) for _ in range(on_their_way))
        # A report tells of all that ended since the one before.
        for end_s, ended in groupby(ends, lambda end: end // REPORT_S * REPORT_S + REPORT_S):
            yield end_s, Volume(len(list(ended)), 0, 1, 0, 0, known)
        at_s = drawn(rng, p.relay_every_s)
        while p.some_mail_goes_on:
            yield at_s, Volume(1, 0, 1, 0, 0, known)
            at_s += drawn(rng, p.relay_every_s)
        if stray_s:
            yield from ((repaired_s + n * 60.0, Volume(1, 0, 1, 0, 0, known)) for n in count(1))
    repaired_s = drawn(rng, p.repaired_after_s)
    stray_s = repaired_s + drawn(rng, p.stray_after_s) if rng.random() < p.stray_after_repair else 0.0

    def visits() -> Iterator[Visit]:
        yield from server.visits(repaired_s)
        if stray_s:
            yield stray_s, rng.choice(server.domains)
            yield stray_s, [f"d{rng.randrange(10**9)}"]
    return Simulated(visits(), Cause.MTA, MONTH_S, reports() if p.reports else iter(()))


def just_blocked(rng: random.Random, p: Parameters) -> Simulated:
    """A mail server that sent directly until the site was shut a moment ago."""
    server = Server(rng, p)
    return Simulated(server.visits(drawn(rng, p.repaired_after_s)), Cause.MTA, MONTH_S,
                     settling_until_s=7200.0 if p.settling else 0.0)


def unknown_server(rng: random.Random, p: Parameters) -> Simulated:
    """A mail server with a queue that no relay has ever heard of, long after the block."""
    return Simulated(Server(rng, p).visits(drawn(rng, p.repaired_after_s)), Cause.MTA, MONTH_S)


def bot_when_just_blocked(rng: random.Random, p: Parameters) -> Simulated:
    """A bot that was there before the block."""
    made = rng.choice((fast_bot, bursty_bot))(rng, p)
    made.settling_until_s, made.horizon_s = 7200.0 if p.settling else 0.0, DAY_S
    return made
