"""The exchange's load at a million hosts, 100 routers, 100 relays: script/bench scale [--seconds N].

A real server on loopback, set up as exchange-setup says (TLS, a user for each role; --plain: without), and
the real stores: in every simulated second each router and relay polls as often as it does in life,
publishes when it is due, and fetches what changed; each relay asks for the budgets of the messages that it
takes. The seconds are played as fast as this machine can, so the server's processor time for a simulated
second is its load in life. What one router and one relay spend on decoding is measured beside it.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from egressguard.core.documents import (
    BULLETIN,
    REPORT,
    Bulletin,
    Client,
    Origin,
    Report,
    Tried,
    encode_bulletin,
    encode_report,
)
from egressguard.core.exchange_url import ServerPlace
from egressguard.core.hosts import Host
from egressguard.core.signing import Keyring
from egressguard.core.verdict import State, Tier
from egressguard.exchange import Exchange, hedged, line, setup
from egressguard.exchange.valkey import ValkeyStore
from egressguard_milter import budgets
from egressguard_milter.account import Kind
from egressguard_milter.budgets import Budgets, Counted, Wanted
from lab.valkey import Server, certificates, free_port, program

HOSTS, ROUTERS, RELAYS = 1_000_000, 100, 100
COMPROMISED = HOSTS // 1000 // ROUTERS  # of each router: one host in a thousand
TRYING = 50  # hosts of each router that made attempts within the hour
CLIENTS = 1000  # in each report: the most that there can be
POLLS_OF_ROUTER, POLLS_OF_RELAY = 4, 5  # a second
BULLETIN_S, REPORT_S = 1, 5  # seconds between two documents of one origin; hosts try all the time
MESSAGES = 10  # a second, through each relay
HERE_S = 3600.0  # a simulated second may take this machine longer
KEYS = Keyring({"site": b"k" * 32})


def bulletin(router: int, sequence: int) -> str:
    """A router's signed bulletin."""
    hosts = [Host(f"2001:db8:{router:x}:{n:x}::/64") for n in range(TRYING)]
    tried = {h: Tried(sequence + n, 8, tuple(f"203.0.113.{(n + d) % 256}" for d in range(8)))
             for n, h in enumerate(hosts)}
    states = dict.fromkeys(hosts[:COMPROMISED], State.COMPROMISED)
    return KEYS.sign(BULLETIN, encode_bulletin(Bulletin(
        Origin(f"router{router}", 1, sequence), 30.0, states, tried=tried)))


def report(relay: int, sequence: int) -> str:
    """A relay's signed report."""
    clients = {Host(f"2001:db8:{relay:x}:{n:x}::/64"): Client(
        Tier.NORMAL, 40, sequence + n, n % 7, {"messages": n % 7}, 2 * n, n % 3, 5, 20, 4096 * n)
        for n in range(CLIENTS)}
    return KEYS.sign(REPORT, encode_report(Report(Origin(f"relay{relay}", 1, sequence), 30.0, clients)))


class Load:
    """All routers and relays, and one simulated second of them at a time."""

    def __init__(self, place_of: Callable[[str], ServerPlace]) -> None:
        self.routers = [ValkeyStore(place_of("router")) for _ in range(ROUTERS)]
        self.relays = [ValkeyStore(place_of("relay")) for _ in range(RELAYS)]
        self.budgets = [Budgets(place_of("relay"), f"relay{n}", RELAYS, HERE_S) for n in range(RELAYS)]
        self._chance = random.Random(1)
        for number in range(RELAYS):
            self.budgets[number].tend(0.0)
            self.budgets[number].take([])
            self.budgets[number].take([], self.budgets[number].here())
            self.relays[number].put(REPORT, f"relay{number}", report(number, 0))
        for number in range(ROUTERS):
            self.routers[number].put(BULLETIN, f"router{number}", bulletin(number, 0))

    def second(self, number: int) -> None:
        """Everything that happens in second `number`, in random order."""
        acts: list[Callable[[], object]] = []
        for n, store in enumerate(self.routers):
            acts += [lambda s=store: s.changed() and s.read(REPORT) and s.read(BULLETIN)] * POLLS_OF_ROUTER
            if n % BULLETIN_S == number % BULLETIN_S:
                acts.append(lambda s=store, n=n: s.put(BULLETIN, f"router{n}", bulletin(n, number)))
        for n, store in enumerate(self.relays):
            acts += [lambda s=store: s.changed() and s.read(BULLETIN)] * POLLS_OF_RELAY
            acts += [lambda b=self.budgets[n]: self._message(b)] * MESSAGES
            acts += [lambda b=self.budgets[n]: b.take([], b.here())] * POLLS_OF_RELAY
            if n % REPORT_S == number % REPORT_S:
                acts.append(lambda s=store, n=n: s.put(REPORT, f"relay{n}", report(n, number)))
        self._chance.shuffle(acts)
        for act in acts:
            act()

    def _message(self, of_relay: Budgets) -> None:
        host = f"2001:db8:0:{self._chance.randrange(1000):x}::/64"
        answer = of_relay.take([Wanted(Counted(host, Kind.MESSAGES, 600.0), 1_000_000, 1)], of_relay.here())
        assert isinstance(answer, list), answer

    def close(self) -> None:
        """Ends every connection."""
        for one in (*self.routers, *self.relays, *self.budgets):
            one.close()


def decoding_s(store: ValkeyStore, kind: str) -> float:
    """Processor seconds for reading every document of a kind for the first time."""
    exchange = Exchange(store, lambda: KEYS)
    began_s = time.process_time()
    assert len(exchange.reports() if kind == REPORT else exchange.bulletins()) == 100
    return time.process_time() - began_s


Site = tuple[Server, Callable[[str], ServerPlace], Callable[[], dict[str, Any]]]


@contextmanager
def site(*, plain: bool) -> Iterator[Site]:
    """A server, where a role finds it, and what it says of itself."""
    with ExitStack() as ending:
        if plain:
            server = ending.enter_context(Server())
            place = ServerPlace(((server.address, server.port),), False)
            yield server, lambda role: place, lambda: server.command("INFO")
            return
        folder, port = Path(ending.enter_context(tempfile.TemporaryDirectory())), free_port()
        for file in setup.files("127.0.0.1", port, str(folder)):
            (folder / file.name).write_text(file.text)
            (folder / file.name).chmod(0o640)
        with (folder / "egressguard.acl").open("a") as users:
            users.write("user bench on >bench +info\n")  # what the others may do does not change
        certificates(folder, "127.0.0.1")
        server = ending.enter_context(Server(port=port, config=(folder / "egressguard.conf").read_text()))
        client = ending.enter_context(Redis("127.0.0.1", port, username="bench", password="bench", ssl=True,
                                            ssl_ca_certs=str(folder / "ca.crt")))

        def place_of(role: str) -> ServerPlace:
            password, authority = f"{folder}/{role}.password", f"{folder}/ca.crt"
            return ServerPlace((("127.0.0.1", port),), True, role, password, authority)

        yield server, place_of, client.info


def play(seconds: int, *, plain: bool = False) -> dict[str, Any]:
    """The figures of so many simulated seconds."""
    line.CALL_S = budgets.SLOW_S = hedged.ASK_AGAIN_S = 5.0  # here the deadlines are not what is measured
    with site(plain=plain) as (server, place_of, info):
        load = Load(place_of)
        load.second(0)  # everybody has read everything once
        before, cpu_s, began_s = info(), server.cpu_s(), time.monotonic()
        for number in range(1, seconds + 1):
            load.second(number)
        after = info()
        found = {
            "server": program(), "version": after["redis_version"], "tls": not plain, "simulated_s": seconds,
            "wall_s": round(time.monotonic() - began_s, 1),
            "server_cpu_percent_of_a_core": round(100 * (server.cpu_s() - cpu_s) / seconds, 1),
            "server_memory_mb": round(after["used_memory"] / 1e6, 1),
            "bulletin_bytes": len(bulletin(1, 1)), "report_bytes": len(report(1, 1)),
            "decoding_100_reports_ms": round(1000 * decoding_s(load.routers[0], REPORT), 1),
            "decoding_100_bulletins_ms": round(1000 * decoding_s(load.relays[0], BULLETIN), 1),
            **{f"{name}_per_s": round((after[key] - before[key]) / seconds) for name, key in (
                ("commands", "total_commands_processed"), ("bytes_in", "total_net_input_bytes"),
                ("bytes_out", "total_net_output_bytes"))}}
        load.close()
        return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="script/bench scale", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="without TLS and users")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = play(arguments.seconds, plain=arguments.plain)
    for name, value in found.items():
        print(f"{name:32} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
