"""The queue of a mail server that lost its way out: many destinations at once, and each is tried again.

A spambot and a full queue look alike in their first seconds. What tells them apart comes later: a mail server
must try every destination again (RFC 5321 4.5.4.1), minutes later and for days, and a queue is finite. So
where a queue is to be expected (`expected`), a new destination is no evidence at once: it is owed a retry,
and after that another one, since bots that retry do so once. One that comes pays for that destination and for
no other; one that does not come speaks for a spambot, as does every destination beyond what a queue of this
size can hold.

Until one of them has come, both are possible, and nobody is called anything. Relays are told the worse one
(`doubt`): whoever has lost the way to a relay is not there to feel its limits, and a bot that uses both doors
is.

Who can abuse this: a bot on such a host that tries every destination three times, patiently. It divides its
own pace to stay unsuspected by this hypothesis, is blocked all the same, and the relay sees the rest.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

PATIENCE_S = 45.0  # MTAs wait minutes (Postfix 300 s); a third of the spambots that retry come within one
WINDOW_S = 4500.0  # the slowest usual first retry: a queue run each hour (`sendmail -q1h`), and some
SETTLING_S = 7200.0
DAY_S = 86400.0
PROVEN_RETRIES = 3
MOST_OWED = 4096
SETTLING_BUDGET = 600
ADDRESSES_PER_DOMAIN = 3  # of the domain itself, in both families together
SHARED_ADDRESSES = 25  # of large providers: Postfix tries five of each (smtp_mx_address_limit)
LOST_AFTER_S = 120.0  # mail that a relay took so shortly after the first attempts was on its way before
IN_FLIGHT_S = 30.0  # so long a usual transaction and the next report may take; what comes later counts
STILL_MAILS = 3  # so many messages later than that: who mails so has not lost the way
STILL_RELAYS_S = 600.0
DOUBT_S = 1800.0  # how long after the last new destination a relay is told of the worse possibility
WIDELY = 3  # domains: who mails to fewer through a relay has no queue that looks like fan-out

RETRIED_IF_MTA, RETRIED_IF_BOT = 0.8, 0.35
PROVEN_SHARE = 0.7
PAID = math.log(RETRIED_IF_MTA / RETRIED_IF_BOT)
UNPAID = math.log((1 - RETRIED_IF_BOT) / (1 - RETRIED_IF_MTA))


class Queue(NamedTuple):
    """What a queue owes: destination → when it was first tried, oldest first, and in `again` when it was
    tried for the second time; `known` are those that were tried again, so that the hours between later
    retries make none of them new. `suspicion` is in nats and decays. `relayed` counts the messages that
    relays had from the host since the first attempts, without those on their way then; until `doubt_until_s`
    a spambot is possible enough to limit the host. `debt` is what spoke for a spambot before the queue began,
    in nats; it decays, and no retry pays for it.

    `budget` is how many destinations it may hold; of these `left` may still come, and half as many more in a
    day.
    """

    began_s: float
    until_s: float
    budget: int
    owed: dict[str, float]
    known: frozenset[str] = frozenset()
    left: float = 0.0
    at_s: float = 0.0
    suspicion: float = 0.0
    paid: int = 0
    unpaid: int = 0
    relayed: int = 0
    again: Mapping[str, float] = MappingProxyType({})
    doubt_until_s: float = float("-inf")
    debt: float = 0.0

    @property
    def score(self) -> float:
        """What the host would be suspected of if this is a queue, in nats."""
        return self.suspicion + self.debt

    @property
    def proven(self) -> bool:
        """Whether the host has retried as only mail servers do."""
        return self.paid >= PROVEN_RETRIES and self.paid >= PROVEN_SHARE * (self.paid + self.unpaid)


def decayed(queue: Queue, rest: float) -> Queue:
    """`queue` when `rest` of what was known is left."""
    return queue._replace(suspicion=queue.suspicion * rest, debt=queue.debt * rest)


def expected(queue: Queue | None, domains: int, settling: bool, quiet_s: float, gained: float,
             now_s: float) -> Queue | None:
    """The queue to be expected of a host that tries new destinations after `quiet_s` seconds of silence.

    `domains` is to how many it has mailed through relays, `gained` what spoke for a spambot before: a bot
    would else be cleared of it by its next attempt, when it has used the relay meanwhile. What was tried
    before the site was shut went through, and says nothing. A queue that is closed stays closed for a day.
    """
    if queue is not None and (queue.budget or quiet_s < DAY_S):
        return queue
    known = domains * ADDRESSES_PER_DOMAIN + SHARED_ADDRESSES if domains >= WIDELY else 0
    if queue is not None and queue.proven:
        known = max(known, queue.paid)
    budget = max(known, SETTLING_BUDGET if settling else 0)
    budget = min(budget, MOST_OWED)
    if not budget:
        return queue
    return Queue(now_s, now_s + SETTLING_S, budget, {}, frozenset(), budget, now_s,
                 debt=0.0 if settling else gained)


def closed(queue: Queue, gained: float) -> Queue:
    """No queue is to be expected any more: what was let pass as one counts, and what comes counts at once."""
    return queue._replace(budget=0, left=0.0, suspicion=max(queue.suspicion, gained),
                          doubt_until_s=float("-inf"))


def refuted(queue: Queue, gained: float) -> Queue:
    """`queue` of a host that mails by the relay all the while: it is none, so no retry pays for anything. A
    third of the bots that retry do so within minutes, and would acquit themselves.
    """
    return closed(queue, gained)._replace(debt=max(queue.debt, gained), suspicion=0.0)


def told(queue: Queue, messages: int, now_s: float) -> Queue:
    """`queue` after a relay has told of so many messages, taken or put off."""
    if not queue.budget or now_s - queue.began_s <= IN_FLIGHT_S:
        return queue
    return queue._replace(relayed=queue.relayed + messages)


def repaired(queue: Queue, relayed_s: float, now_s: float) -> Queue:
    """`queue`, which owes nothing when the host has found its way: silent for longer than any retry would
    take, it has mailed by a relay meanwhile.
    """
    if now_s - queue.at_s <= WINDOW_S or relayed_s <= queue.at_s:
        return queue
    return queue._replace(owed={}, again={})


def relays_on(queue: Queue, relayed_s: float, now_s: float) -> bool:
    """Whether the host still mails by a relay, which last told of that at `relayed_s`; one that is proven to
    have lost its way has found it again.
    """
    return now_s - relayed_s < STILL_RELAYS_S and not queue.proven and (
        queue.relayed >= STILL_MAILS or relayed_s - queue.began_s > LOST_AFTER_S)


def doubted(queue: Queue, now_s: float) -> Queue:
    """`queue` after new destinations that would convict any other host; none is doubted that is proven."""
    if not queue.budget:
        return queue
    return queue._replace(doubt_until_s=float("-inf") if queue.proven else now_s + DOUBT_S)


def after(queue: Queue, new: Sequence[str], retried: Sequence[str], unknown: int, gained: float,
          new_weight: float, now_s: float) -> Queue:
    """`queue` after attempts to `new` destinations, to known ones, and to `unknown` ones; `gained` is what
    new destinations would weigh without a queue.
    """
    owed, again, known = dict(queue.owed), dict(queue.again), queue.known
    tried = dict.fromkeys((*retried, *new))
    fresh = [destination for destination in new if destination not in known and destination not in owed]
    second = [d for d in tried if now_s - again.get(d, now_s) >= PATIENCE_S]
    first = [d for d in tried if now_s - owed.get(d, now_s) >= PATIENCE_S]
    for destination in second:
        del again[destination]
    for destination in first:
        del owed[destination]
    unpaid = _overdue(owed, now_s) + _overdue(again, now_s)
    again.update((destination, now_s) for destination in first[:MOST_OWED - len(again)])
    left = min(queue.budget, queue.left + (now_s - queue.at_s) * queue.budget / (2 * DAY_S))
    taken = fresh[:min(int(left), MOST_OWED - len(owed))]
    owed.update((destination, now_s) for destination in taken)
    over, paid = unknown + len(fresh) - len(taken), len(first) + len(second)
    met = [*first, *(d for d in retried if d not in known and d not in owed)]
    if met and len(known) < MOST_OWED:
        known = known.union(met)
    suspicion = max(0.0, queue.suspicion + over * new_weight + unpaid * UNPAID - paid * PAID)
    found = queue._replace(owed=owed, again=again, known=known, left=left - len(taken), at_s=now_s,
                           suspicion=suspicion, paid=queue.paid + paid, unpaid=queue.unpaid + unpaid)
    if paid and queue.budget and found.proven:
        return found._replace(until_s=max(found.until_s, now_s + DAY_S), doubt_until_s=float("-inf"))
    return closed(found, gained) if queue.budget and now_s >= found.until_s else found


def _overdue(owed: dict[str, float], now_s: float) -> int:
    """Takes out what was never retried in time, and says how many that were."""
    late = []
    for destination, first_s in owed.items():
        if now_s - first_s <= WINDOW_S:
            break
        late.append(destination)
    for destination in late:
        del owed[destination]
    return len(late)
