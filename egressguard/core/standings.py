"""The hosts as `status` and `hosts` list them: what the kernel counted of each, its verdict, its tier."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from egressguard.core.health import attempts_forged
from egressguard.core.hosts import Host, host_of
from egressguard.core.observation import Observation
from egressguard.core.orders import address_of
from egressguard.core.verdict import State, Tier, Verdict


@dataclass(frozen=True, slots=True)
class Standing:
    """One host as `status` shows it: what the kernel counted under all its keys, its verdict, its tier.

    `counted` are its SYNs to ports that are only counted, which are no attempts; `tier` is the strictest
    that a relay says it applies now, None when no fresh report names the host. Of the `macs` that its
    attempts came from, those that they are `forged_by` are not its own (core/forgery.py).
    """

    host: Host
    keys: tuple[Host, ...]
    attempts: int
    fan_out: int
    state: State
    verdict: Verdict | None
    tier: Tier | None
    macs: frozenset[str] = frozenset()
    counted: int = 0
    forged_by: frozenset[str] = frozenset()


def standings(seen: Observation, *, everyone: bool = False) -> list[Standing]:
    """Every host with attempts, with a counted SYN or with a verdict that is not clean, or `everyone` of the
    inventory as well; worst and most active first.
    """
    machine_of = seen.settings.machine_of()
    tables = seen.tables()
    attempts = _sums((table.sample.attempts for table in tables), machine_of)
    counted = _sums((table.counted for table in tables), machine_of)
    pairs = {pair for table in tables for pair in table.sample.destinations or ()}
    fan_out = Counter(machine_of.get(key, key) for key, _ in pairs)
    hosts = {host for count in (attempts, counted) for host, n in count.items() if n or everyone}
    hosts |= {host for host, verdict in seen.verdicts.items() if verdict.state is not State.CLEAN}
    macs = _Macs(seen)
    found = [_standing(host, (attempts[host], fan_out[host], counted[host]), seen, machine_of, macs)
             for host in hosts]
    return sorted(found, key=lambda s: (-s.state.rank, -s.attempts, -s.counted, s.host))


def would_block(seen: Observation) -> list[Standing]:
    """The hosts whose attempts are blocked, or would be in mode enforce. Whoever has an exception now is left
    out: nothing that it does would be.
    """
    excepted = {element[1] for table in seen.tables() for name in ("exception4", "exception6")
                for element in table.leases.get(name, ())}
    return [standing for standing in standings(seen) if standing.attempts
            and not all(str(address_of(key)) in excepted for key in standing.keys)]


def _sums(counts: Iterable[Mapping[Host, int]], machine_of: Mapping[Host, Host]) -> Counter[Host]:
    """Several tables' counts, with the keys of one machine added up under its first."""
    sums = Counter[Host]()
    for count in counts:
        for key, packets in count.items():
            sums[machine_of.get(key, key)] += packets
    return sums


def _standing(host: Host, counts: tuple[int, int, int], seen: Observation,
              machine_of: Mapping[Host, Host], macs: "_Macs") -> Standing:
    keys = tuple(key for key, first in machine_of.items() if first == host) or (host,)
    verdict = seen.verdicts.get(host)
    attempts, fan_out, counted = counts
    tiers = [lease.document.clients[key].tier for lease in seen.reports.values() for key in keys
             if lease.fresh(seen.now_s) and key in lease.document.clients]
    return Standing(host, keys, attempts, fan_out, verdict.state if verdict else State.CLEAN, verdict,
                    max(tiers, key=tuple(Tier).index, default=None), _of(keys, macs.seen), counted,
                    _of(keys, macs.foreign))


def _of(keys: tuple[Host, ...], macs: Mapping[Host, set[str]]) -> frozenset[str]:
    return frozenset(mac for key in keys for mac in macs.get(key, ()))


class _Macs:
    """By host, the MACs that its attempts were `seen` from, and those of them that are `foreign`."""

    def __init__(self, seen: Observation) -> None:
        self.seen: dict[Host, set[str]] = {}
        self.foreign: dict[Host, set[str]] = {}
        for address, macs in (item for table in seen.tables() for item in table.sample.macs.items()):
            self.seen.setdefault(host_of(ip_address(address)), set()).update(macs)
        for forgery in attempts_forged(seen):
            self.foreign.setdefault(forgery.host, set()).update(forgery.macs)
