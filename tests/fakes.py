"""Stand-ins that can be dumped as text; the contract tests run on them and on the real thing."""

from collections.abc import Callable, Collection, Container, Iterable

from egressguard.core.attempts import Sample, Totals, Transit
from egressguard.core.connections import Connection
from egressguard.core.errors import KernelError
from egressguard.core.hosts import Host
from egressguard.core.plan import Changes, transaction
from egressguard.core.ruleset import CONFIGURED, LEASED, SMTP_PORTS, VERSION_CHAIN, Element, Leases, Sets
from egressguard.core.tables import Table
from egressguard.core.trial import TEMPORARY
from egressguard.exchange import Exchange
from egressguard.kernel import Ruleset
from egressguard.kernel.events import Culprit
from egressguard.kernel.rules_file import RulesFile

EMPTY: Sets = dict.fromkeys(CONFIGURED, frozenset())


class FakeKernel:
    """A kernel made of sets and counters; `packets` stand for what the rules would count."""

    def __init__(self) -> None:
        self.made = 0
        self.fails: str | None = None
        self.cut_fails = ""
        self.connections: list[Connection] = []
        self.damaged = False
        self.foreign: Changes = ()
        self.loads: list[str] = []
        self.flush()

    def flush(self) -> None:
        """What another tool's `nft flush ruleset` does."""
        self.table: Ruleset | None = None
        self.elements: Sets = dict(EMPTY)
        self.timed: dict[tuple[str, Element], float] = {}
        self.leased: Leases = {name: {} for name in LEASED}
        self.attempts: dict[Host, int] = {}
        self.destinations: dict[tuple[Host, str], int] = {}
        self.number = getattr(self, "number", 0) + 1

    def edit(self) -> None:
        """What `nft delete rule` does."""
        assert self.table is not None
        self.table = Ruleset(self.table.handle, False, self.table.chains, self.table.hooks, "edited")
        self.number += 1

    def packet(self, host: Host, destination: str) -> None:
        """A blocked SYN."""
        self.attempts[host] = self.attempts.get(host, 0) + 1
        pair = host, destination
        self.destinations[pair] = self.destinations.get(pair, 0) + 1

    def _check(self) -> None:
        if self.fails:
            raise KernelError(self.fails)

    def generation(self) -> int:
        self._check()
        return self.number

    def ruleset(self) -> Ruleset | None:
        self._check()
        return self.table

    def sets(self) -> Sets:
        return dict(self.elements)

    def leases(self) -> Leases:
        return {name: dict(elements) for name, elements in self.leased.items()}

    def lasting(self) -> Leases:
        return {name: {element: self.timed.get((name, element), float("inf")) for element in self.elements[name]}
                for name in TEMPORARY}

    def planted(self) -> Changes:
        return self.foreign

    def transit(self) -> dict[str, Transit]:
        return {}

    def sender_macs(self) -> dict[str, frozenset[str]]:
        return {}

    def only_counted(self) -> dict[Host, int]:
        return {}

    def totals(self) -> Totals:
        self._check()
        if self.table is None:
            raise KernelError("no table")
        count = sum(self.attempts.values())
        return Totals(blocked=count, attempts=count)

    def attempt_macs(self) -> dict[str, frozenset[str]]:
        return {}

    def neighbours(self, addresses: Container[str]) -> dict[str, frozenset[str]]:
        return {}

    def sample(self, now_s: float, since: Totals | None = None) -> Sample:
        return Sample(now_s, self.totals(), dict(self.attempts), {}, dict(self.destinations))

    def expected(self, rules: RulesFile) -> Ruleset:
        return self._whole()

    def _whole(self) -> Ruleset:
        hooks = {"egress_forward": "forward -10 1", "egress_output": "output -10 1"}
        return Ruleset(self.made, False, frozenset({VERSION_CHAIN}), hooks, "whole")

    def rebuild(self, rules: RulesFile, changes: Changes) -> None:
        self.flush()
        self.damaged = False
        self.load(rules, None, changes)

    def loading(self, rules: RulesFile, have: Ruleset, changes: Changes) -> str:
        return f"{rules.name}\n{transaction(changes)}"

    def rebuilding(self, rules: RulesFile, changes: Changes) -> str:
        return f"{rules.name}\n{transaction(changes)}"

    def load(self, rules: RulesFile, have: Ruleset | None, changes: Changes) -> None:
        self._check()
        if self.damaged:
            raise KernelError("a set was made anew with another type")
        self.loads.append(rules.name)
        if self.table is None:
            self.made += 1
            self.elements["smtp_ports"] = self.elements["blocked_ports"] = SMTP_PORTS
        self.table = self._whole()
        self.apply(changes)
        self.number += 1

    def apply(self, changes: Changes) -> None:
        self._check()
        for change in changes:
            if change.set_name in self.leased:
                for element in change.removed:
                    del self.leased[change.set_name][element]
                self.leased[change.set_name].update(change.timeouts_s)
                continue
            old = self.elements[change.set_name]
            self.elements[change.set_name] = (old - set(change.removed)) | set(change.added)
            self.timed = {k: v for k, v in self.timed.items() if k not in {(change.set_name, e) for e in change.removed}}
            self.timed |= {(change.set_name, e): left_s for e, left_s in change.timeouts_s.items()}
        self.number += bool(changes)

    def cut(self, ports: Iterable[int], chosen: Callable[[Connection], bool]) -> list[Connection]:
        if self.cut_fails:
            raise KernelError(self.cut_fails)
        ended = [c for c in self.connections if c.port in ports and chosen(c)]
        self.connections = [c for c in self.connections if c not in ended]
        return ended

    def others(self, culprits: Iterable[Culprit]) -> list[Culprit]:
        return list(culprits)

    def interfaces(self) -> frozenset[str]:
        return frozenset({"lo"})

    def ports(self) -> dict[str, frozenset[str]]:
        return {}

    def macs(self, names: Collection[str]) -> tuple[frozenset[Element], frozenset[Element]]:
        return frozenset(), frozenset()

    def fallback(self) -> bool:
        return False

    claims = True

    def owns(self) -> bool:
        return False

    def beside(self, table: Table) -> "FakeKernel":
        return FakeKernel()

    def close(self) -> None:
        pass


class FakeStore:
    """A store in memory, shared by everybody who holds the same `place`."""

    def __init__(self, place: dict[tuple[str, str], str] | None = None) -> None:
        self.place = {} if place is None else place
        self._seen: dict[tuple[str, str], str] | None = None

    def put(self, kind: str, name: str, text: str) -> None:
        if self._seen is not None:
            self._seen[kind, name] = text
        self.place[kind, name] = text

    def read(self, kind: str) -> dict[str, str]:
        return {name: text for (k, name), text in self.place.items() if k == kind}

    def forget(self, kind: str, name: str) -> None:
        self.place.pop((kind, name), None)
        if self._seen is not None:
            self._seen.pop((kind, name), None)

    def changed(self) -> bool:
        before, self._seen = self._seen, dict(self.place)
        return before != self._seen

    def close(self) -> None:
        pass


def fake_exchange(place: dict[tuple[str, str], str] | None = None) -> Exchange:
    """An exchange in memory."""
    return Exchange(FakeStore(place))
