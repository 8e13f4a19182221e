"""The queue of a mail server that lost its way out: many destinations at once, and each is tried again.

A spambot and a full queue look alike in their first seconds. What tells them apart comes later: a mail server
must try every destination again (RFC 5321 4.5.4.1), minutes later and for days, and a queue is finite. So
where a queue is to be expected (`opened`), a new destination is no evidence at once: it is owed a retry. One
that comes pays for that destination and for no other; one that does not come speaks for a spambot, as does
every destination beyond what a queue of this size can hold.

Who can abuse this: a bot on such a host that tries every destination a second time, patiently. It halves its
own pace to stay unsuspected by this hypothesis, is blocked all the same, and the relay sees the rest.
"""

import math
from collections.abc import Sequence
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
WIDELY = 3  # domains: who mails to fewer through a relay has no queue that looks like fan-out

RETRIED_IF_MTA, RETRIED_IF_BOT = 0.8, 0.35
PROVEN_SHARE = 0.7
PAID = math.log(RETRIED_IF_MTA / RETRIED_IF_BOT)
UNPAID = math.log((1 - RETRIED_IF_BOT) / (1 - RETRIED_IF_MTA))


class Queue(NamedTuple):
    """What a queue owes: destination → when it was first tried, oldest first; `known` are those that were
    tried again, so that the hours between later retries make none of them new. `suspicion` is in nats and
    decays.

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

    @property
    def proven(self) -> bool:
        """Whether the host has retried as only mail servers do."""
        return self.paid >= PROVEN_RETRIES and self.paid >= PROVEN_SHARE * (self.paid + self.unpaid)


def expected(queue: Queue | None, domains: int, settling: bool, quiet_s: float, now_s: float) -> Queue | None:
    """The queue to be expected of a host that tries new destinations after `quiet_s` seconds of silence.

    `domains` is to how many it has mailed through relays. A queue that is closed stays closed for a day.
    """
    if queue is not None and (queue.budget or quiet_s < DAY_S):
        return queue
    known = domains * ADDRESSES_PER_DOMAIN + SHARED_ADDRESSES if domains >= WIDELY else 0
    if queue is not None and queue.proven:
        known = max(known, queue.paid)
    budget = max(known, SETTLING_BUDGET if settling else 0)
    budget = min(budget, MOST_OWED)
    return Queue(now_s, now_s + SETTLING_S, budget, {}, frozenset(), budget, now_s) if budget else queue


def closed(queue: Queue, gained: float) -> Queue:
    """No queue is to be expected any more: what was let pass as one counts, and what comes counts at once."""
    return queue._replace(budget=0, left=0.0, suspicion=max(queue.suspicion, gained))


def after(queue: Queue, new: Sequence[str], retried: Sequence[str], unknown: int, gained: float,
          new_weight: float, now_s: float) -> Queue:
    """`queue` after attempts to `new` destinations, to known ones, and to `unknown` ones; `gained` is what
    new destinations would weigh without a queue.
    """
    owed, known = dict(queue.owed), queue.known
    fresh = [destination for destination in new if destination not in known and destination not in owed]
    paid = [destination for destination in dict.fromkeys((*retried, *new))
            if now_s - owed.get(destination, now_s) >= PATIENCE_S]
    for destination in paid:
        del owed[destination]
    unpaid = _overdue(owed, now_s)
    left = min(queue.budget, queue.left + (now_s - queue.at_s) * queue.budget / (2 * DAY_S))
    taken = fresh[:min(int(left), MOST_OWED - len(owed))]
    owed.update((destination, now_s) for destination in taken)
    over = unknown + len(fresh) - len(taken)
    met = [*paid, *(d for d in retried if d not in known and d not in owed)]
    if met and len(known) < MOST_OWED:
        known = known.union(met)
    suspicion = max(0.0, queue.suspicion + over * new_weight + unpaid * UNPAID - len(paid) * PAID)
    found = Queue(queue.began_s, queue.until_s, queue.budget, owed, known, left - len(taken), now_s,
                  suspicion, queue.paid + len(paid), queue.unpaid + unpaid)
    if paid and queue.budget and found.proven:
        return found._replace(until_s=max(found.until_s, now_s + DAY_S))
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
