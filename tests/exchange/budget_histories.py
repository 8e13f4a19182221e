"""Random histories of relays that share budgets: messages, lost answers, calls that arrive late, partitions, restarts,
a server that forgets, one that starts again with what it had saved, one that is replaced by a replica that had not everything, one
that comes back as the primary that it was before its replica was promoted, and one that does not tell which process it is. Ledgers and
scripts are the product's, the server is real; what is simulated is time and the network.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import TimeoutError as ServerTimeoutError

from egressguard.core.exchange_url import ServerPlace
from egressguard_milter.account import Kind, Pool
from egressguard_milter.budgets import Budgets
from egressguard_milter.ledger import Cap, Claim, Hold
from egressguard_milter.records import Record
from egressguard_milter.shared_ledger import SharedLedger

PLACE = ServerPlace((("192.0.2.20", 6379),), False)
CLIENT = Claim("192.0.2.1", (Cap(Kind.MESSAGES, 4, 60.0), Cap(Kind.MESSAGES, 12, 600.0), Cap(Kind.RECIPIENTS, 16, 600.0)),
               Pool.KNOWN)
OTHER = Claim("192.0.2.2", (Cap(Kind.MESSAGES, 12, 600.0),), Pool.KNOWN)
GROUP = Claim("group web", (Cap(Kind.MESSAGES, 15, 600.0),), Pool.KNOWN)
STEPS_S = (0.0, 0.0, 0.0, 0.1, 0.3, 1.0, 4.0, 15.0, 70.0, 250.0, 700.0)
LONGEST_S = 100.0  # of a message; by then it was sent or given up


@dataclass
class Server:
    """The real one, by a clock that the history turns; `number` is which of the site's servers it is, and `starts` how
    often connections to it have ended.
    """

    client: Redis
    number: int = 1
    starts: int = 0
    process: int = 0
    tells: bool = True  # to relays, which process it is
    late: list[tuple[Any, ...]] = field(default_factory=list)
    copy: dict[bytes, bytes] = field(default_factory=dict)
    former: tuple[int, dict[bytes, bytes]] | None = None

    def set_clock(self, now_s: float) -> None:
        self.client.hset("clock", mapping={"s": int(now_s), "us": int(now_s % 1 * 1e6)})

    def run(self, command: tuple[Any, ...]) -> Any:
        execute: Any = self.client.execute_command
        return decoded(execute(*command))

    def forget(self) -> None:
        self.client.flushdb()
        self.tell(self.tells)

    def tell(self, tells: bool) -> None:
        self.tells = tells
        self.client.set("process", f"run_id:{self.process}" if tells else "")

    def data(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.client.keys("egressguard:*")}  # type: ignore[misc]

    def replicate(self) -> None:
        self.copy = self.data()

    def suffer(self, what: float) -> None:
        if what < 0.185:
            self.forget()
        elif what < 0.21 or not self.copy:
            self.replicate()
        elif what < 0.215:
            self.start_again()
        else:
            self.fail_over()

    def start_again(self) -> None:
        """With what it had saved."""
        self.starts += 1
        self.be(self.starts, self.copy)

    def fail_over(self) -> None:
        self.number, self.former = self.number + 1, (self.process, self.data())
        self.start_again()

    def come_back(self) -> None:
        """The primary that was given up was cut off only, and those who talked to the promoted replica find it again; next time
        they find that.
        """
        if self.former is not None:
            (process, data), self.former = self.former, (self.process, self.data())
            self.starts += 1
            self.be(process, data)

    def be(self, process: int, data: dict[bytes, bytes]) -> None:
        """Another process, with these data; every connection ends."""
        self.process, self.late = process, []
        self.forget()
        for key, value in data.items():
            self.client.restore(key, 0, value)


def decoded(reply: Any) -> Any:
    if isinstance(reply, list):
        return [decoded(part) for part in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


@dataclass
class Wire:
    """A relay's connection as `budgets` uses it."""

    server: Server
    relay: "Relay"
    chance: random.Random

    def __post_init__(self) -> None:
        self.starts = self.server.starts
        self.host, self.port = f"192.0.2.{20 + self.server.number}", 6379

    def exchange(self, command: tuple[Any, ...]) -> list[Any]:
        if self.relay.cut or self.starts != self.server.starts:
            raise ServerTimeoutError("cut")
        lost = self.chance.random()
        if lost > self.relay.loss:
            return [self.server.run(command)]
        if lost < self.relay.loss / 3:
            self.server.late.append(command)
        elif lost < self.relay.loss * 2 / 3:
            self.server.run(command)
        raise ServerTimeoutError("lost")

    def close(self) -> None:
        pass


class Disk:
    """What a killed relay finds again."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.found = ""

    def write(self, records: Any) -> None:
        self.records += records

    def keep(self, life: str) -> None:
        self.found = life


@dataclass(eq=False)
class Message:
    """One on its way, and when each recipient was let through."""

    relay: "Relay"
    hold: Hold
    claims: tuple[Claim, ...]
    at_s: list[float]


@dataclass(eq=False)
class Relay:
    """One relay, over its restarts."""

    name: str
    relays: int
    world: "World"
    disk: Disk = field(default_factory=Disk)
    cut: bool = False
    down: bool = False
    loss: float = 0.0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        budgets = Budgets(PLACE, self.name, self.relays, clock=lambda: self.world.now_s, last=self.disk)
        self.budgets = budgets
        self.ledger = SharedLedger(600.0, 100, self.disk, budgets, self.relays)
        self.ledger.remember(list(self.disk.records), self.world.now_s)
        self.ledger.resize(600.0, 100, (60.0, 600.0))

    def tend(self) -> None:
        self.world.connecting = self
        self.budgets._retry_at_s = 0.0
        self.ledger.tend(self.world.now_s)


class World:
    """Relays around one server."""

    def __init__(self, client: Redis, seed: int, relays: int = 0, calm: float = 1.0) -> None:
        self.chance, self.now_s, self.calm = random.Random(seed), 10_000.0, calm
        self.server = Server(client)
        self.server.forget()
        self.server.set_clock(self.now_s)
        self.connecting: Relay | None = None
        number = relays or self.chance.randint(2, 4)
        self.relays = [Relay(f"relay{n}", number, self) for n in range(number)]
        self.messages: list[Message] = []
        self.let: list[tuple[float, Claim, Kind, int, Message]] = []
        self.alone = 0

    def connect(self, _: ServerPlace) -> Wire:
        assert self.connecting is not None
        if self.connecting.cut:
            raise ServerTimeoutError("cut")
        return Wire(self.server, self.connecting, self.chance)

    def pass_time(self, seconds: float) -> None:
        for message in [m for m in self.messages if self.now_s + seconds - m.at_s[0] > LONGEST_S]:
            self.end(message)
        self.now_s += seconds
        self.server.set_clock(self.now_s)

    def begin(self, relay: Relay, claims: tuple[Claim, ...]) -> bool:
        hold = relay.ledger.reserve(claims, self.now_s)
        if not isinstance(hold, Hold):
            return False
        self.alone += not hold.taken
        self.messages.append(message := Message(relay, hold, claims, [self.now_s]))
        self.note(message, (Kind.MESSAGES, Kind.RECIPIENTS))
        return True

    def extend(self, message: Message) -> None:
        if message.relay.ledger.extend(message.hold, self.now_s) is None:
            message.at_s.append(self.now_s)
            self.note(message, (Kind.RECIPIENTS,))

    def end(self, message: Message) -> None:
        self.messages.remove(message)
        if self.chance.random() < 0.8:
            message.relay.ledger.settle(message.hold, len(message.at_s), self.now_s)
        else:
            self.let = [one for one in self.let if one[-1] is not message]
            message.relay.ledger.release(message.hold, self.now_s)

    def kill(self, relay: Relay) -> None:
        lost = [message for message in self.messages if message.relay is relay]
        self.messages = [message for message in self.messages if message.relay is not relay]
        self.let = [one for one in self.let if one[-1] not in lost]
        relay.begin()

    def note(self, message: Message, kinds: tuple[Kind, ...]) -> None:
        self.let += [(self.now_s, claim, kind, 1, message) for claim in message.claims for kind in kinds]
        for claim in message.claims:
            for kind, most, window_s in claim.caps:
                passed = sum(n for at_s, c, k, n, _ in self.let
                             if c is claim and k is kind and self.now_s - window_s < at_s)
                assert passed <= most, f"{passed} of {claim.key} passed in {window_s} s, of {most}"

    def step(self) -> None:
        chance = self.chance
        self.pass_time(chance.choice(STEPS_S))
        relay = chance.choice(self.relays)
        self.mishap(relay, chance.random() * self.calm)
        while self.server.late and chance.random() < 0.5:
            self.server.run(self.server.late.pop(chance.randrange(len(self.server.late))))
        for one in self.relays:
            if not one.down and chance.random() < 0.7:
                one.tend()
        if not relay.down:
            self.some_mail(relay)

    def mishap(self, relay: Relay, what: float) -> None:
        """Mostly none; otherwise one of a relay, or of the server."""
        if what < 0.08:
            relay.cut = not relay.cut
        elif what < 0.12:
            relay.loss = self.chance.choice([0.0, 0.0, 0.4])
        elif what < 0.15:
            self.kill(relay)
        elif what < 0.17:
            relay.down = not relay.down
        elif what < 0.22:
            self.server.suffer(what)
        elif what < 0.24:
            self.server.come_back()
        elif what < 0.25:
            self.server.tell(not self.server.tells)
        self.server.set_clock(self.now_s)

    def some_mail(self, relay: Relay) -> None:
        chance = self.chance
        for _ in range(chance.choice([0, 1, 2, 6, 20])):
            self.begin(relay, chance.choice([(CLIENT,), (CLIENT, GROUP), (OTHER, GROUP), (OTHER,)]))
        for message in list(self.messages):
            if chance.random() < 0.3 and not message.relay.down:
                self.extend(message)
            if chance.random() < 0.6:
                self.end(message)


def play(client: Redis, monkeypatch: Any, seed: int) -> World:
    """One history, and what follows when all is well again: after a window the limit is exact. Every other one is rough."""
    world = World(client, seed, calm=0.4 if seed % 2 else 1.0)
    monkeypatch.setattr("egressguard_milter.budgets.connect", world.connect)
    for relay in world.relays:
        relay.tend()
    for _ in range(world.chance.randint(10, 60)):
        world.step()
    for relay in world.relays:
        relay.cut, relay.down, relay.loss = False, False, 0.0
    world.server.tell(True)
    world.pass_time(700.0)
    for _ in range(3):  # the last one may find a copy of the past in its second step: then all begin anew in the third
        for relay in world.relays:
            relay.tend()
    passed = sum(world.begin(world.chance.choice(world.relays), (OTHER,)) for _ in range(30))
    assert passed == 12, f"history {seed}: all is well, and {passed} of 12 pass"
    return world
