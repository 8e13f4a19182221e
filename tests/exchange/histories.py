"""Random histories of routers and relays around an exchange that drops, repeats, reorders and plays back.

Everything that decides is the product's own core; what is simulated is the network between them, time, and
restarts, over which each keeps what it keeps in life: its counts, its verdicts, its marks, its epoch.
"""

import random
from dataclasses import dataclass, field

from egressguard.core import detection, shared
from egressguard.core.attempts import Attempts
from egressguard.core.documents import Bulletin, Origin, Tried, decode_bulletin, encode_bulletin
from egressguard.core.hosts import Host
from egressguard.core.leases import Inbox, Mark
from egressguard.core.settings import Detection
from egressguard.core.signing import Keyring
from egressguard.core.verdict import State, Verdict
from egressguard_milter.signals import Signals

HOSTS = [Host(f"198.51.100.{n}") for n in range(11, 14)]
LIFETIME_S = 30.0
KEYS = Keyring({"site": b"k" * 32})


@dataclass
class Network:
    """Every text that was ever left, by name; a reader is shown any of them, or none."""

    left: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, bulletin: Bulletin) -> None:
        self.left.setdefault(bulletin.origin.name, []).append(KEYS.sign("bulletin", encode_bulletin(bulletin)))

    def shown(self, chance: random.Random) -> list[str]:
        """What a reader sees: mostly the newest, sometimes an old one, one twice, a damaged one, or nothing."""
        texts = []
        for all_of_one in self.left.values():
            what = chance.random()
            if what < 0.55:
                texts.append(all_of_one[-1])
            elif what < 0.7:
                texts += [chance.choice(all_of_one), chance.choice(all_of_one)]
            elif what < 0.8:
                texts.append(all_of_one[-1][:chance.randrange(len(all_of_one[-1]))])
        chance.shuffle(texts)
        return texts


def believed(texts: list[str]) -> list[Bulletin]:
    found = []
    for text in texts:
        try:
            found.append(decode_bulletin(KEYS.verified("bulletin", text)))
        except ValueError:
            continue
    return found


@dataclass
class Expected:
    """What a router has to have counted, by the rules in docs/exchange.md and not by the product's code."""

    counts: dict[Host, int] = field(default_factory=dict)
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)  # over restarts
    seen: dict[str, tuple[int, dict[Host, int]]] = field(default_factory=dict)  # since the start

    def add(self, host: Host, count: int) -> None:
        self.counts[host] = self.counts.get(host, 0) + count

    def hear(self, bulletins: list[Bulletin]) -> None:
        """The newest of each router; what it had before we heard of it for the first time is in its verdicts."""
        for name in {b.origin.name for b in bulletins}:
            epoch, sequence, bulletin = max(((b.origin.epoch, b.origin.sequence, b) for b in bulletins
                                             if b.origin.name == name), key=lambda found: found[:2])
            if (epoch, sequence) < self.newest.get(name, (0, 0)):
                continue
            self.newest[name] = epoch, sequence
            tried = {host: one.attempts for host, one in bulletin.tried.items()}
            before = self.seen.get(name, (epoch, tried))
            self.seen[name] = epoch, tried
            for host, count in tried.items():
                self.add(host, count - (before[1].get(host, 0) if before[0] == epoch else 0))


@dataclass
class Router:
    """What one router keeps; `counted` is how many attempts of each host went into its verdicts."""

    name: str
    epoch: int = 1
    sequence: int = 0
    inbox: Inbox[Bulletin] = field(default_factory=Inbox)
    heard: shared.Heard = field(default_factory=shared.Heard)
    tried: dict[Host, Tried] = field(default_factory=dict)
    verdicts: dict[Host, Verdict] = field(default_factory=dict)
    counted: dict[Host, int] = field(default_factory=dict)
    waiting: dict[Host, Attempts] = field(default_factory=dict)
    ledger: "Expected" = field(default_factory=lambda: Expected())

    def blocks(self, host: Host, destination: str) -> None:
        old = self.waiting.get(host, Attempts(0))
        self.waiting[host] = Attempts(old.count + 1, (*old.new_destinations, destination))
        self.ledger.add(host, 1)

    def round(self, texts: list[str], now_s: float) -> None:
        self.ledger.hear([b for b in believed(texts) if b.origin.name != self.name])
        self.inbox = self.inbox.receive(believed(texts), now_s)
        self.heard, told = self.heard.hear((lease.document for lease in self.inbox.leases.values()), self.name)
        self.tried = shared.tried(self.tried, self.waiting)
        evidence, self.waiting = shared.added(self.waiting, told), {}
        self.verdicts = {**self.verdicts, **detection.judge(self.verdicts, evidence, Detection(), now_s)}
        for host, found in evidence.items():
            self.counted[host] = self.counted.get(host, 0) + found.count

    def bulletin(self) -> Bulletin:
        self.sequence += 1
        states = {host: v.state for host, v in self.verdicts.items() if v.state is not State.CLEAN}
        return Bulletin(Origin(self.name, self.epoch, self.sequence), LIFETIME_S, states, tried=self.tried)

    def restart(self) -> None:
        marks: dict[str, Mark] = dict(self.inbox.marks)
        self.epoch, self.sequence, self.inbox = self.epoch + 1, 0, Inbox(marks=marks)
        self.heard, self.tried = shared.Heard(), {}
        self.ledger.seen.clear()


@dataclass
class Relay:
    signals: Signals = field(default_factory=Signals)

    def poll(self, texts: list[str], now_s: float) -> None:
        self.signals.receive(believed(texts), now_s)
        self.signals.evaluate(now_s)

    def restart(self) -> None:
        self.signals = Signals(dict(self.signals.marks))

    def states(self, now_s: float) -> dict[Host, State]:
        return {host: self.signals.state(host, now_s) for host in HOSTS}


def play(seed: int, *, restarts: bool = True) -> bool:
    """One history; whether relays agreed on anything worse than clean. Raises AssertionError, naming it, when they
    diverge, or a router has not counted exactly what it had to.
    """
    chance = random.Random(seed)
    routers = [Router(f"r{n}") for n in range(chance.randint(1, 4))]
    relays = [Relay() for _ in range(chance.randint(1, 4))]
    network, now_s, truth = Network(), 1000.0, dict.fromkeys(HOSTS, 0)
    for router in routers:  # everybody has met before the first attempt
        network.leave(router.bulletin())
    for router in routers:
        router.round([texts[-1] for texts in network.left.values()], now_s)
    for _ in range(chance.randint(5, 40)):
        now_s += chance.choice([0.25, 1.0, 5.0, 40.0])
        router, relay = chance.choice(routers), chance.choice(relays)
        for _ in range(chance.randint(0, 4)):
            host = chance.choice(HOSTS)
            router.blocks(host, f"203.0.113.{chance.randint(1, 250)}")
            truth[host] += 1
        for one in (chance.choice(routers), relay) if restarts else ():
            if chance.random() < 0.08:
                one.restart()
        router.round(network.shown(chance), now_s)
        if chance.random() < 0.7:
            network.leave(router.bulletin())
        relay.poll(network.shown(chance), now_s)
        _nobody_counted_twice(routers, truth, seed)
    _settle(routers, relays, network, now_s)
    _nobody_counted_twice(routers, truth, seed)
    _every_count_is_exact(routers, {} if restarts else truth, seed)
    return _relays_agree(routers, relays, now_s + 4, seed)


def _settle(routers: list[Router], relays: list[Relay], network: Network, now_s: float) -> None:
    """The network is well again: everybody says everything twice, and is heard."""
    for second in range(1, 4):
        for router in routers:
            router.round([texts[-1] for texts in network.left.values()], now_s + second)
            network.leave(router.bulletin())
    for relay in relays:
        relay.poll([texts[-1] for texts in network.left.values()], now_s + 4)


def _nobody_counted_twice(routers: list[Router], truth: dict[Host, int], seed: int) -> None:
    for router in routers:
        twice = {h: n for h, n in router.counted.items() if n > truth[h]}
        assert not twice, f"history {seed}: {router.name} counted {twice}, of {truth}"


def _every_count_is_exact(routers: list[Router], truth: dict[Host, int], seed: int) -> None:
    """Also over restarts: a router misses what others counted while it had not heard of them yet, and no more.
    Without restarts it is the `truth`.
    """
    for router in routers:
        found, expected = ({h: n for h, n in counts.items() if n} for counts in (router.counted, router.ledger.counts))
        assert found == expected, f"history {seed}: {router.name} counted {found}, not {expected}"
        assert not truth or found == {h: n for h, n in truth.items() if n}, f"history {seed}: {found}, not {truth}"


def _relays_agree(routers: list[Router], relays: list[Relay], now_s: float, seed: int) -> bool:
    worst = {host: max((r.verdicts[host].state for r in routers if host in r.verdicts),
                       key=lambda s: s.rank, default=State.CLEAN) for host in HOSTS}
    for relay in relays:
        assert relay.states(now_s) == worst, f"history {seed}: {relay.states(now_s)}, not {worst}"
    return any(state is not State.CLEAN for state in worst.values())
