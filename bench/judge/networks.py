"""Hosts whose address is not theirs alone, or not for long: NAT, DHCP, IPv6 privacy."""

import heapq
import random
from collections.abc import Iterator
from ipaddress import IPv6Address
from itertools import islice, takewhile

from bench.judge.hosts import (
    DAY_S,
    MONTH_S,
    Simulated,
    Told,
    Visit,
    application,
    bursty_bot,
    drawn,
    fast_bot,
    slow_bot,
    whole,
)
from bench.judge.parameters import Parameters
from egressguard.core.verdict import Cause
from egressguard.core.volumes import Volume

MOST_OF_A_BOT = 2000  # visits: its score can rise no further long before
NETWORK = int(IPv6Address("2001:db8:0:12::"))


def temporary(network: int, rng: random.Random) -> str:
    """An address with a random interface identifier (RFC 8981 3.3)."""
    return str(IPv6Address(network | rng.getrandbits(64)))


def from_temporary(rng: random.Random, visits: Iterator[Visit], lives_s: float) -> Iterator[Visit]:
    """The same visits, each from the temporary address that the machine has then."""
    until_s, source = float("-inf"), ""
    for at_s, addresses, *_ in visits:
        if at_s >= until_s:
            until_s, source = at_s + lives_s, temporary(NETWORK, rng)
        yield at_s, addresses, source


def privacy_bot(rng: random.Random, p: Parameters) -> Simulated:
    """A slow bot on a machine whose address changes daily, or that takes another one for each connection."""
    made = slow_bot(rng, p)
    lives_s = 0.0 if rng.random() < p.bot_changes_addresses else p.privacy_lifetime_s
    made.visits = from_temporary(rng, made.visits, lives_s)
    return made


def privacy(rng: random.Random, p: Parameters) -> Simulated:
    """Some machines in one /64, with temporary addresses, at least one of them misconfigured."""
    apps = sum(rng.random() < p.nat_misconfigured for _ in range(whole(rng, p.privacy_machines)))
    each = [from_temporary(rng, application(rng, p, rng.uniform(0, 3 * DAY_S), MONTH_S), p.privacy_lifetime_s)
            for _ in range(max(1, apps))]
    return Simulated(heapq.merge(*each), Cause.APPLICATION, MONTH_S)


def _behind_nat(rng: random.Random, p: Parameters) -> Iterator[Visit]:
    apps = sum(rng.random() < p.nat_misconfigured for _ in range(whole(rng, p.nat_machines)))
    each = [application(rng, p, rng.uniform(0, 3 * DAY_S), MONTH_S) for _ in range(max(1, apps))]
    return heapq.merge(*each)


def nat(rng: random.Random, p: Parameters) -> Simulated:
    """Many machines behind one address, some with a misconfigured application of their own."""
    return Simulated(_behind_nat(rng, p), Cause.APPLICATION, MONTH_S)


def bot_behind_nat(rng: random.Random, p: Parameters) -> Simulated:
    """The same, and one of the machines has a bot, which begins after some days of that."""
    made, before_s = _any_bot(rng, p), drawn(rng, (0, 3 * DAY_S))
    made.visits = heapq.merge(_behind_nat(rng, p), _later(made.visits, before_s))
    made.horizon_s, made.bot_from_s = before_s + 2 * DAY_S, before_s
    return made


def _any_bot(rng: random.Random, p: Parameters) -> Simulated:
    return rng.choice((fast_bot, bursty_bot, slow_bot))(rng, p)


def _later(visits: Iterator[Visit], by_s: float) -> Iterator[Visit]:
    for at_s, addresses, *_ in visits:
        yield at_s + by_s, addresses


def _leases(rng: random.Random, p: Parameters, at_s: float, until_s: float) -> Iterator[Visit]:
    """An address that goes from machine to machine."""
    while at_s < until_s:
        end_s = min(until_s, at_s + drawn(rng, p.dhcp_lease_s))
        if rng.random() < p.dhcp_misconfigured:
            yield from application(rng, p, at_s, end_s - 60)
        at_s = end_s


def dhcp(rng: random.Random, p: Parameters) -> Simulated:
    """Such an address, of nobody with a bot."""
    return Simulated(_leases(rng, p, 0.0, MONTH_S), Cause.APPLICATION, MONTH_S)


def after_a_bot(rng: random.Random, p: Parameters) -> Simulated:
    """An address that a spambot had before; those who have it from a minute later on are innocent."""
    lease_s = drawn(rng, p.dhcp_lease_s)
    bots = list(islice(takewhile(lambda visit: visit[0] < lease_s, _any_bot(rng, p).visits), MOST_OF_A_BOT))
    begin_s = bots[-1][0] + 60.0
    innocents = _leases(rng, p, begin_s, begin_s + MONTH_S)
    return Simulated(_chained(iter(bots), innocents), Cause.APPLICATION, begin_s + MONTH_S,
                     innocent_from_s=begin_s)


def inherited_by_a_bot(rng: random.Random, p: Parameters) -> Simulated:
    """An address of innocents, some of whom have mailed by a relay, which passes to a spambot."""
    made, before_s = _any_bot(rng, p), drawn(rng, p.dhcp_lease_s)
    made.visits = _chained(_leases(rng, p, 0.0, before_s), _later(made.visits, before_s))
    made.horizon_s, made.bot_from_s = before_s + 2 * DAY_S, before_s
    if rng.random() < p.dhcp_misconfigured:
        domains = whole(rng, p.relay_domains)
        hours = range(int(before_s / 3600))
        told: list[Told] = [(hour * 3600.0, Volume(20, 0, 20, 0, 1, domains)) for hour in hours]
        made.reports = iter(told)
    return made


def _chained(first: Iterator[Visit], second: Iterator[Visit]) -> Iterator[Visit]:
    yield from first
    yield from second
