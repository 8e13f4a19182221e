"""What relays have reported, in the database: how far each report was weighed, and history for `tune`.

What was made of a report and how far it was weighed are written in one transaction, machine by machine, so a
restart neither weighs a report twice nor leaves out what came while nobody listened.
"""

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from egressguard.core.documents import Client, Origin, Report
from egressguard.core.hosts import Host
from egressguard.core.verdict import Tier
from egressguard.core.volumes import WINDOW_S, Volume
from egressguard.database import Database

KEPT_WINDOWS = 30 * 144  # thirty days of what hosts did through relays
MOST_VOLUMES = 2_000_000
THE_REPORT = ""  # in place of a host: the row that says which report of a relay was seen last
COUNTED = ("relay, host, epoch, sequence, accepted, deferred, recipients, refused, senders, domains,"
           " connections")
KEPT = "host, window, accepted, deferred, recipients, refused, connections, most_open, most_messages"
NO_CLIENT = Client(Tier.NORMAL, 0, 0, 0)


class Weighed(NamedTuple):
    """What is to be written down: the newest report of each relay, its clients as they were weighed (None:
    the relay has forgotten that one), and what machines have done since.
    """

    reports: Mapping[str, Origin]
    clients: Mapping[tuple[str, Host], tuple[Origin, Client | None]]
    volumes: Mapping[Host, Volume]


def put(db: sqlite3.Connection, weighed: Weighed) -> None:
    """Writes `weighed` down, in the transaction of `db`."""
    db.executemany("DELETE FROM reported WHERE relay = ? AND host = ?",
                   [place for place, (_, client) in weighed.clients.items() if client is None])
    rows = [(relay, host, origin.epoch, origin.sequence, client)
            for (relay, host), (origin, client) in weighed.clients.items() if client is not None]
    rows += [(relay, Host(THE_REPORT), origin.epoch, origin.sequence, NO_CLIENT)
             for relay, origin in weighed.reports.items()]
    db.executemany(f"INSERT OR REPLACE INTO reported ({COUNTED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (
        (relay, host, epoch, sequence, c.accepted, c.deferred, c.recipients, c.refused_recipients, c.senders,
         c.domains, c.connections) for relay, host, epoch, sequence, c in rows))
    if weighed.volumes:
        add_volumes(db, weighed.volumes)


def weighed_reports(database: Database) -> dict[str, Report]:
    """The last report of each relay, as far as it was weighed: a client that was last weighed in an earlier
    epoch of its relay has been weighed nothing of in this one. Raises DatabaseError.
    """
    found = database.rows(f"SELECT {COUNTED} FROM reported ORDER BY relay, host")
    origins = {relay: Origin(relay, epoch, sequence) for relay, host, epoch, sequence, *_ in found
               if host == THE_REPORT}
    clients: dict[str, dict[Host, Client]] = {relay: {} for relay in origins}
    for relay, host, epoch, _, accepted, deferred, recipients, refused, senders, domains, begun in found:
        if host != THE_REPORT and relay in origins and epoch == origins[relay].epoch:
            clients[relay][Host(host)] = Client(Tier.NORMAL, 0, accepted, deferred, {}, recipients, refused,
                                                senders, domains, connections=begun)
    return {relay: Report(origin, 0.0, clients[relay]) for relay, origin in origins.items()}


def add_volumes(db: sqlite3.Connection, volumes: Mapping[Host, Volume], window: int | None = None) -> None:
    """Adds what relays have reported to the present window of ten minutes of wall time (or to `window`, in
    such windows since 1970), and drops what is too old or too much: in the transaction of `db`.
    """
    now = db.execute(f"SELECT CAST(strftime('%s', 'now') AS INTEGER) / {WINDOW_S}").fetchone()[0]
    db.executemany(
        f"INSERT INTO volume ({KEPT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (host, window) DO UPDATE SET"
        " accepted = accepted + excluded.accepted, deferred = deferred + excluded.deferred,"
        " recipients = recipients + excluded.recipients, refused = refused + excluded.refused,"
        " connections = connections + excluded.connections, most_open = max(most_open, excluded.most_open),"
        " most_messages = max(most_messages, excluded.most_messages)",
        ((host, now if window is None else window, v.accepted, v.deferred, v.recipients, v.refused,
          v.connections, v.most_open, v.most_messages) for host, v in volumes.items()))
    db.execute("DELETE FROM volume WHERE window < ?", (now - KEPT_WINDOWS,))
    _drop_oldest(db)


def _drop_oldest(db: sqlite3.Connection) -> None:
    """A site of many busy hosts keeps fewer days."""
    rows = db.execute("SELECT count(*) FROM volume").fetchone()[0]
    if rows > MOST_VOLUMES:
        db.execute("DELETE FROM volume WHERE window <= (SELECT window FROM volume ORDER BY window"
                   " LIMIT 1 OFFSET ?)", (rows - MOST_VOLUMES,))


def volumes_of(database: Database) -> dict[Host, dict[int, Volume]]:
    """What each host did through relays, by window. Raises DatabaseError."""
    rows = database.rows(f"SELECT {KEPT} FROM volume ORDER BY host, window")
    found: dict[Host, dict[int, Volume]] = {}
    for host, window, accepted, deferred, recipients, refused, *more in rows:
        volume = Volume(accepted, deferred, recipients, refused, 0, 0, *more)
        found.setdefault(Host(host), {})[window] = volume
    return found
