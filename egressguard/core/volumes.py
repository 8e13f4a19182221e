"""How hosts use the permitted door: what a relay's report says more than its last one, and what that weighs.

A report has cumulative counts since the relay's epoch began; differences are evidence, and history for
`tune`. A smaller count is a new life of the relay's memory of that client, as with the kernel's counters.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from egressguard.core.documents import MAX_COUNT, Client, Report
from egressguard.core.hosts import Host

WINDOW_S = 600
# Shares of recipients that an MTA refuses: spammers' lists are old, customers' addresses are used.
REFUSED_IF_SPAMBOT, REFUSED_IF_BENIGN = 0.3, 0.05
REFUSED = math.log(REFUSED_IF_SPAMBOT / REFUSED_IF_BENIGN)
TAKEN = math.log((1 - REFUSED_IF_SPAMBOT) / (1 - REFUSED_IF_BENIGN))
# A newsletter is deferred as a spam run is: little each, and no more for one report than this.
DEFERRED, MOST_BY_DEFERRALS = 0.02, 0.2
# Forged senders change with every message; a site's are few. So a new sender in every other message is odd.
SENDER_IF_SPAMBOT, SENDER_IF_BENIGN = 0.6, 0.2
SENDER = math.log(SENDER_IF_SPAMBOT / SENDER_IF_BENIGN)
SAME_SENDER = math.log((1 - SENDER_IF_SPAMBOT) / (1 - SENDER_IF_BENIGN))


class Volume(NamedTuple):
    """What a host did through a relay between two reports; `domains` is how many there were in all.

    `deferred` are messages that were told to come back, `refused` recipients that the MTA refused.
    `most_open` connections were there at once, and `most_messages` came in one of them.
    """

    accepted: int = 0
    deferred: int = 0
    recipients: int = 0
    refused: int = 0
    senders: int = 0
    domains: int = 0
    connections: int = 0
    most_open: int = 0
    most_messages: int = 0

    @property
    def mail(self) -> bool:
        """Whether anything was mailed, or tried to be: who only connects is no evidence."""
        return any(self[:5])


NONE = Volume()


def between(before: Report | None, report: Report) -> dict[Host, Volume]:
    """Each client's volume since the last report `before` of the same relay; clients without any are absent.

    Nothing is known of what was before the first report: it is where counting begins. A client that a report
    of the same epoch did not have yet began at zero.
    """
    if before is None:
        return {}
    same = before.origin.epoch == report.origin.epoch
    volumes = {}
    for host, client in report.clients.items():
        volume = _increase(before.clients.get(host) if same else None, client)
        if volume.mail or volume.connections:
            volumes[host] = volume
    return volumes


def _increase(old: Client | None, new: Client) -> Volume:
    now = _counts(new)
    before = _counts(old) if old is not None else NONE
    if now.accepted < before.accepted or now.recipients < before.recipients:
        before = NONE
    more = Volume(*(min(MAX_COUNT, max(0, b - a)) for a, b in zip(before, now, strict=True)))
    return more._replace(domains=now.domains, most_open=now.most_open, most_messages=now.most_messages)


def _counts(client: Client) -> Volume:
    return Volume(client.accepted, client.deferred, client.recipients, client.refused_recipients,
                  client.senders, *(min(MAX_COUNT, n) for n in (client.domains, client.connections,
                                                                client.most_open, client.most_messages)))


def _both(one: Volume, other: Volume) -> Volume:
    """What two of one machine's keys did, or one did twice; the most stays the most of either."""
    added = Volume(*(a + b for a, b in zip(one, other, strict=True)))
    return added._replace(most_open=max(one.most_open, other.most_open),
                          most_messages=max(one.most_messages, other.most_messages))


def joined(volumes: Mapping[Host, Volume], machine_of: Mapping[Host, Host]) -> dict[Host, Volume]:
    """`volumes` with the keys of one machine added up under its first key."""
    result: dict[Host, Volume] = {}
    for key, found in volumes.items():
        host = machine_of.get(key, key)
        old = result.get(host)
        result[host] = found if old is None else _both(old, found)
    return result


def summed(one: Mapping[Host, Volume], other: Mapping[Host, Volume]) -> dict[Host, Volume]:
    """What both say together."""
    both = {host: _both(one.get(host, NONE), volume) for host, volume in other.items()}
    return {**one, **both}


def suspicion_of(volume: Volume) -> tuple[float, str]:
    """What `volume` says for a spambot, in nats (negative: against), and in which words."""
    recipients = volume.refused * REFUSED + volume.recipients * TAKEN
    senders = volume.senders * SENDER + max(0, volume.accepted - volume.senders) * SAME_SENDER
    deferrals = min(volume.deferred * DEFERRED, MOST_BY_DEFERRALS)
    parts = ((recipients, "recipients refused at the relay"), (senders, "many senders at the relay"),
             (deferrals, "deferred by the relay's limits"))
    return sum(weight for weight, _ in parts), max(parts)[1]
