"""Relays' reports: what each says more than the last one that was weighed, by machine."""

import sqlite3
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from egressguard.core import volumes
from egressguard.core.documents import Client, Origin, Report
from egressguard.core.hosts import Host
from egressguard.core.volumes import Volume
from egressguard.database import Database
from egressguard.relay_records import Weighed, put, weighed_reports

Clients = dict[tuple[str, Host], tuple[Origin, Client | None]]
Believed = Callable[[Mapping[Host, Client]], Mapping[Host, Client]]


class Reports:
    """The last report of each relay, and what of the reports is not written down yet.

    `urgent` says that a relay was heard for the first time, which is where counting begins: what it says next
    would be lost if that were forgotten.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last: dict[str, Report] = {}
        self._seen: dict[str, Report] = {}
        self._origins: dict[str, Origin] = {}
        self._clients: dict[Host, Clients] = {}
        self._volumes: dict[Host, Volume] = {}
        self.urgent = False

    def start(self) -> None:
        """Goes on where an earlier process has ended. Raises DatabaseError."""
        self._last = weighed_reports(self._database)

    def more(self, seen: Report, machine_of: Mapping[Host, Host], believed: Believed) -> dict[Host, Volume]:
        """What each machine has done since the last report of this relay, by what is `believed` of its
        clients; nothing if it is not newer.
        """
        name, before = seen.origin.name, self._last.get(seen.origin.name)
        if self._seen.get(name) is seen or (before is not None and seen.origin.place < before.origin.place):
            return {}
        self._seen[name] = seen
        report = self._last[name] = replace(seen, clients=believed(seen.clients))
        self._note(before, report, machine_of)
        found = volumes.joined(volumes.between(before, report), machine_of)
        self._volumes = volumes.summed(self._volumes, found)
        return found

    def _note(self, before: Report | None, report: Report, machine_of: Mapping[Host, Host]) -> None:
        name, origin = report.origin.name, report.origin
        self.urgent |= before is None
        self._origins[name] = origin
        same = before is not None and before.origin.epoch == origin.epoch
        old = before.clients if before is not None and same else {}
        changed = {host: client for host, client in report.clients.items() if old.get(host) != client}
        gone = dict.fromkeys(before.clients.keys() - report.clients.keys() if before is not None else ())
        for host, client in {**changed, **gone}.items():
            self._clients.setdefault(machine_of.get(host, host), {})[name, host] = origin, client

    def write(self, db: sqlite3.Connection, machines: Collection[Host] | None = None) -> None:
        """Writes down what concerns these machines, or all, in the transaction of `db`."""
        chosen = self._clients if machines is None else {m: self._clients[m] for m in machines
                                                         if m in self._clients}
        clients: Clients = {}
        for found in chosen.values():
            clients.update(found)
        put(db, Weighed(self._origins, clients, self._volumes if machines is None else {
            m: self._volumes[m] for m in machines if m in self._volumes}))

    def written(self, machines: Collection[Host] | None = None) -> None:
        """That has been done."""
        self._origins, self.urgent = {}, False if machines is None else self.urgent
        for machine in tuple(self._clients) if machines is None else machines:
            self._clients.pop(machine, None)
        for machine in tuple(self._volumes) if machines is None else machines:
            self._volumes.pop(machine, None)

    def __bool__(self) -> bool:
        return bool(self._clients or self._volumes or self._origins)
