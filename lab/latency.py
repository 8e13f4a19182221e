"""From a bot's first blocked SYN to the changed limit at the relay, on real packets, with both real daemons.

Every run is another host, an IPv6 /64 behind web2, that connects to a few addresses outside. The end is the
relay's report of the tightened limit as another reader of the exchange finds it, so it is told late rather
than early. Hosts begin at random instants and overlap, as they would; nothing is measured twice.
"""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from egressguard.core.errors import ExchangeError
from egressguard.exchange import open_exchange
from egressguard.exchange.setup import new_key
from lab.deployment import Deployment
from lab.namespaces import wait_until
from lab.network import MAILSERVER, WEB2, World
from lab.valkey import Server

LIMIT = 40
DESTINATIONS = 12
NETWORK = "2001:db8:1::/48"
LOOK_S = 0.005
PATIENCE_S = 60.0
LOSS = """table inet lossy {{
  chain losing {{
    type filter hook {hook} priority 0
    {match} numgen random mod 100 < {percent} drop
  }}
}}"""


@contextmanager
def site(folder: Path, kind: str, *, loss_percent: int = 0, rto_min_ms: int = 0
         ) -> Iterator[Deployment]:
    """Router and relay running, with an exchange of this kind: `sqlite` or `valkey` (on a host of its own).

    Lost are packets of the bot's connections, and of those to the server, each way. `rto_min_ms` is after how
    many milliseconds the hosts send a lost packet again (0: the kernel's 200).
    """
    with ExitStack() as ending:
        world = ending.enter_context(World())
        deployment = Deployment(world, folder, messages=LIMIT)
        for host in (world.router, world.relay, world.mailserver) if rto_min_ms else ():
            for route in host.run(["ip", "-4", "route"]).stdout.splitlines():
                host.ip(f"route change {route} rto_min {rto_min_ms}ms")
        if kind == "valkey":
            server = ending.enter_context(
                Server(address=MAILSERVER.ipv4, port=6379, namespace=world.mailserver))
            _use(deployment, server, folder)
        _many_hosts(world, deployment)
        deployment.start_router()
        deployment.start_milter()
        wait_until(lambda: deployment.status()[0] == 0, "a healthy status")
        if loss_percent:
            world.web2.run(["nft", "-f", "-"], stdin=LOSS.format(
                hook="output", match="tcp dport 25", percent=loss_percent))
            for hook in ("input", "output") if kind == "valkey" else ():
                # Not on lo: the reader that takes the time is on this host, and must not lose what it reads.
                end, port = ("iifname", "dport") if hook == "input" else ("oifname", "sport")
                text = LOSS.format(hook=hook, match=f'{end} != "lo" tcp {port} 6379', percent=loss_percent)
                world.mailserver.run(["nft", "-f", "-"], stdin=text.replace("lossy", f"lossy_{hook}"))
        yield deployment


def _use(deployment: Deployment, server: Server, folder: Path) -> None:
    key = folder / "exchange.key"
    key.write_text(new_key() + "\n")
    key.chmod(0o640)
    for path in (deployment.router_config, deployment.milter_config):
        text = path.read_text().replace(deployment.exchange_url, server.url)
        path.write_text(f'exchange_key = "{key}"\n{text}')
    deployment.milter_config.write_text(f'state = "{folder}/state"\n{deployment.milter_config.read_text()}')
    deployment.exchange_url, deployment.exchange_key = server.url, str(key)


def _many_hosts(world: World, deployment: Deployment) -> None:
    world.router.ip(f"route add {NETWORK} via {WEB2.ipv6}")
    world.web2.ip(f"route add local {NETWORK} dev lo")
    world.web2.sysctl({"net.ipv6.ip_nonlocal_bind": 1})
    deployment.amend('"2001:db8:0:12::/64"', f'"2001:db8:0:12::/64", "{NETWORK}"')


class Reader:
    """Notes when the exchange first tells of each host's tightened limit."""

    def __init__(self, deployment: Deployment) -> None:
        self.seen_s: dict[str, float] = {}
        self._deployment, self._stopping = deployment, threading.Event()
        self._thread = threading.Thread(
            target=lambda: deployment.world.mailserver.call(self._look), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the looking."""
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        exchange = open_exchange(self._deployment.exchange_url, self._deployment.exchange_key)
        while not self._stopping.wait(LOOK_S):
            try:
                reports = exchange.reports() if exchange.changed() else []
            except ExchangeError:  # a busy file, a late answer: the next look sees what this one did not
                continue
            now_s = time.monotonic()
            for report in reports:
                for host, client in report.clients.items():
                    if client.limit <= LIMIT // 10:
                        self.seen_s.setdefault(host, now_s)
        exchange.close()


def measure(deployment: Deployment, runs: int, *, pause_s: float, seed: int = 1) -> list[float]:
    """Seconds from first SYN to changed limit of so many hosts; they begin `pause_s` apart on average."""
    chance, reader = random.Random(seed), Reader(deployment)
    began_s: dict[str, float] = {}
    try:
        for run in range(runs):
            host = f"2001:db8:1:{run + 1:x}::"
            began_s[f"{host}/64"] = time.monotonic()
            deployment.world.web2.call(_spam, f"{host}1")
            time.sleep(chance.uniform(0, 2 * pause_s))
        wait_until(lambda: began_s.keys() <= reader.seen_s.keys(), "every host's changed limit",
                   timeout_s=PATIENCE_S)
    finally:
        reader.stop()
    return sorted(reader.seen_s[host] - at_s for host, at_s in began_s.items())


def _spam(source: str) -> None:
    """Connects to many addresses at once; what the network loses the kernel sends again."""
    connections = []
    for n in range(DESTINATIONS):
        connection = socket.socket(socket.AF_INET6)
        connection.setblocking(False)
        connection.bind((source, 0))
        connection.connect_ex((f"2001:db8:ffff::{130 + n:x}", 25))
        connections.append(connection)
    threading.Timer(5.0, _close, [connections]).start()


def _close(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


def percentile(sorted_s: list[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    return sorted_s[min(len(sorted_s) - 1, int(share * len(sorted_s)))]
