"""script/demo: the main job as a story, on real packets and a real Postfix; every step is checked.

A wrong observation ends the story with a non-zero exit code and says which step and what was seen.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egressguard.core.verdict import State, Tier
from egressguard.exchange import open_exchange
from lab import traffic
from lab.deployment import MILTER_PORT, Deployment
from lab.mail import Reply, send, send_burst
from lab.namespaces import LabError, wait_until
from lab.network import MAILSERVER, RELAY, SOMEBODY4, SOMEBODY6, WEB1, WEB2, World, answers
from lab.postfix import Postfix
from lab.sink import Sink
from lab.sniffer import Sniffer
from lab.traffic import FOUR, ROUTES, SIX, SMTP

LIMIT = 40  # messages in ten minutes for a normal host


class WrongObservation(Exception):
    """A step saw something else than what the promise says."""


def expect(condition: bool, text: str) -> None:
    """Ends the story unless `condition` holds; `text` says what was seen instead."""
    if not condition:
        raise WrongObservation(text)


@dataclass
class Stage:
    """What the steps share: the world and what runs in it, and the figures for --json."""

    world: World
    sink: Sink
    deployment: Deployment
    ending: ExitStack
    figures: dict[str, Any] = field(default_factory=dict)
    bot_began_s: float = 0.0
    seen_s: dict[str, float] = field(default_factory=dict)


def world_comes_up(stage: Stage) -> str:
    """Router, relay, mailserver, two web servers and the outside; the road is open before egressguard."""
    for place in (WEB1, WEB2, RELAY, MAILSERVER):
        for address in (SOMEBODY4, SOMEBODY6):
            reached = stage.world.namespace(place).call(answers, address, SMTP, 5.0)
            expect(reached, f"{place.name} does not reach {address}, with no firewall in between")
    return "6 hosts in IPv4 and IPv6; without egressguard everyone reaches port 25 outside"


def egressguard_starts(stage: Stage) -> str:
    """The router enforces, and Postfix on the relay talks to the milter."""
    stage.deployment.start_router()
    stage.deployment.start_milter()
    relay = Postfix(stage.world.relay, networks=("192.0.2.0/26", "198.51.100.0/24", "[2001:db8::]/32"),
                    routes=ROUTES, milter=MILTER_PORT)
    stage.ending.callback(relay.close)
    wait_until(lambda: stage.deployment.status()[0] == 0, "a healthy status")
    code, status = stage.deployment.status()
    expect(status["mode"] == "enforce" and status["rules_intact"], f"status says {code} {status}")
    return f"mode enforce, rules intact, status exit code {code}; Postfix {relay.version()} with the milter"


def mail_flows(stage: Stage) -> str:
    """The healthy web server sends through the relay, the official mailserver directly."""
    for domain, via, direct in ((FOUR, RELAY.ipv4, SOMEBODY4), (SIX, RELAY.ipv6, SOMEBODY6)):
        _accepted(send(stage.world.web1, via, recipients=[f"somebody@{domain}"],
                       subject=f"web1 {domain}"), "web1")
        _accepted(send(stage.world.mailserver, direct, recipients=[f"somebody@{domain}"],
                       subject=f"mailserver {domain}"), "mailserver")
    wait_until(lambda: len(stage.sink.messages()) >= 4, "4 messages at the sink outside")
    clients = {(m.subject.split()[0], m.client) for m in stage.sink.messages()}
    wanted = {("web1", a) for a in RELAY.addresses} | {("mailserver", a) for a in MAILSERVER.addresses}
    expect(clients == wanted, f"messages came from {sorted(clients)}")
    stage.figures["delivered_before"] = len(stage.sink.messages())
    return "web1 delivered 2 messages through the relay, the mailserver 2 directly; the sink has all 4"


def _accepted(reply: Reply, who: str) -> None:
    expect(reply.accepted, f"{who} was answered {reply.code} {reply.text}")


class Watch:
    """Notes when each verdict and the changed limit first show in the exchange, looking every 5 ms."""

    def __init__(self, url: str) -> None:
        self.seen_s: dict[str, float] = {}
        self._url, self._stopping = url, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the looking."""
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        exchange = open_exchange(self._url)
        while not self._stopping.wait(0.005):
            now_s = time.monotonic()
            for bulletin in exchange.bulletins():
                for state in bulletin.verdicts.values():
                    self.seen_s.setdefault(state, now_s)
            for report in exchange.reports():
                if any(client.limit <= LIMIT // 10 for client in report.clients.values()):
                    self.seen_s.setdefault("limit", now_s)
        exchange.close()


def bot_tries_the_first_door(stage: Stage) -> str:
    """The compromised web server connects to many outside addresses: blocked, each counted exactly."""
    watch = Watch(stage.deployment.exchange_url)
    with Sniffer(stage.world.web2, "eth0", direction="out") as left, \
            Sniffer(stage.world.outside, "eth0", direction="in") as arrived:
        began_s = time.monotonic()
        reached = traffic.bot_tries_the_first_door(stage.world.web2)
        expect(not reached, f"web2 connected to {', '.join(reached)}")
        wait_until(lambda: {State.COMPROMISED, "limit"} <= watch.seen_s.keys(),
                   "the verdict and the changed limit in the exchange")
        sent = sum(packet.pure_syn for packet in left.stop())
        leaked = [packet for packet in arrived.stop() if packet.source in WEB2.addresses]
    watch.stop()
    wait_until(lambda: counted(stage) == sent, f"{sent} attempts in the kernel's counters")
    expect(not leaked, f"{len(leaked)} packets of web2 arrived outside")
    stage.figures |= {"syns_sent": sent, "leaked": len(leaked), "attempts_counted": counted(stage)}
    stage.bot_began_s, stage.seen_s = began_s, watch.seen_s
    return (f"{sent} SYNs to {2 * traffic.DESTINATIONS} addresses: {len(leaked)} arrived outside, "
            f"{counted(stage)} counted")


def counted(stage: Stage) -> int:
    """What the kernel has counted for web2, as `status` tells."""
    hosts = stage.deployment.status()[1]["hosts"]
    return int(hosts[WEB2.ipv4]["attempts"]) if WEB2.ipv4 in hosts else 0


def verdict_is_reached(stage: Stage) -> str:
    """The verdict went clean, suspect, compromised; the relay has changed the limit."""
    history = json.loads(stage.deployment.egressguard("history", WEB2.ipv4, "--json").stdout)
    path = [(entry["before"], entry["after"]) for entry in history]
    expect(path == [(State.CLEAN, State.SUSPECT), (State.SUSPECT, State.COMPROMISED)], f"history says {path}")
    host = stage.deployment.status()[1]["hosts"][WEB2.ipv4]
    expect((host["verdict"], host["tier"]) == (State.COMPROMISED, Tier.TIGHTENED), f"status says {host}")
    # `suspect` may last less than a round, so that no bulletin tells of it; history does.
    after_s = {State.SUSPECT: history[0]["at_s"], **stage.seen_s}
    took_s = {name: round(at_s - stage.bot_began_s, 3) for name, at_s in after_s.items()}
    stage.figures["first_syn_to_s"] = took_s
    return (f"clean → suspect {took_s[State.SUSPECT]:.2f} s → compromised {took_s[State.COMPROMISED]:.2f} s "
            f"→ limit changed at the relay {took_s['limit']:.2f} s after the first SYN")


def bot_tries_the_second_door(stage: Stage) -> str:
    """The compromised host gets far less through the relay than a normal one; the healthy one all."""
    codes = [reply.code for reply in traffic.bot_tries_the_second_door(stage.world.web2)]
    accepted, deferred = codes.count(250), codes.count(451)
    expect(accepted <= 2 * LIMIT // 10, f"{accepted} of {len(codes)} messages got through")
    expect(accepted + deferred == len(codes) == 2 * traffic.SPAM, f"the replies were {sorted(set(codes))}")
    healthy = send_burst(stage.world.web1, RELAY.ipv4, 10, recipients=[f"somebody@{FOUR}"],
                         subject="web1 again")
    expect(all(reply.accepted for reply in healthy), f"web1 was answered {healthy}")
    wait_until(lambda: len(subjects(stage, "web2 spam")) >= accepted
               and len(subjects(stage, "web1 again")) == 10, "all accepted messages at the sink")
    delivered = len(subjects(stage, "web2 spam"))
    expect(delivered == accepted, f"{delivered} of {accepted} accepted messages were delivered")
    stage.figures |= {"spam_tried": len(codes), "spam_accepted": accepted, "spam_deferred_451": deferred,
                      "limit_of_a_normal_host": LIMIT, "healthy_tried": 10, "healthy_accepted": 10}
    return (f"{len(codes)} messages tried: {accepted} accepted, {deferred} answered 451 "
            f"(a normal host may send {LIMIT} by each address); web1 sent 10 of 10")


def subjects(stage: Stage, subject: str) -> list[str]:
    """The messages with this subject that reached the sink."""
    return [m.subject for m in stage.sink.messages() if m.subject.startswith(subject)]


def status_is_shown(stage: Stage) -> str:
    """The operator's view."""
    done = stage.deployment.egressguard("status")
    expect(done.returncode == 1, f"status ended with {done.returncode}, not 1 (a host is compromised)")
    expect("compromised" in done.stdout and "web2" in done.stdout, f"status shows\n{done.stdout}")
    stage.figures["status_exit_code"] = done.returncode
    shown = "".join(f"     {line.rstrip()}\n" for line in done.stdout.splitlines())
    return f"egressguard status (exit code 1: a host is compromised)\n\n{shown}"


STORY: tuple[tuple[str, Callable[[Stage], str]], ...] = (
    ("the network comes up", world_comes_up),
    ("egressguard starts", egressguard_starts),
    ("permitted mail flows", mail_flows),
    ("a hacked web server spams directly", bot_tries_the_first_door),
    ("it is judged", verdict_is_reached),
    ("it tries through the relay", bot_tries_the_second_door),
    ("what the operator sees", status_is_shown),
)


def tell(stage: Stage) -> None:
    """Plays every step and prints what was observed; raises WrongObservation or LabError."""
    for number, (title, step) in enumerate(STORY, 1):
        print(f"{number}/{len(STORY)}  {title} …", flush=True)
        try:
            observed = step(stage)
        except (WrongObservation, LabError) as error:
            raise WrongObservation(f"step {number}, {title}: {error}") from error
        print(f"     {observed}", flush=True)


def play(figures: dict[str, Any], rules: Path | None) -> None:
    """Builds the world, tells the story in it, and removes it."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="egressguard-demo-")))
        world = ending.enter_context(World())
        sink = ending.enter_context(Sink(world.outside))
        tell(Stage(world, sink, Deployment(world, folder, messages=LIMIT, rules=rules), ending, figures))


def main() -> None:
    """`python -m lab.demo [--json FILE]`."""
    parser = argparse.ArgumentParser(prog="script/demo", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rules", type=Path, metavar="DIRECTORY", help="use these instead of rules/")
    arguments = parser.parse_args()
    began_s, figures = time.monotonic(), dict[str, Any]()
    try:
        play(figures, arguments.rules)
    except (WrongObservation, LabError) as error:
        figures["wrong"] = str(error)
        print(f"demo: WRONG: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        figures["wrong"] = "interrupted"
        print("demo: interrupted; everything it made is removed", file=sys.stderr)
    figures["seconds"] = round(time.monotonic() - began_s, 1)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if "wrong" in figures:
        sys.exit(1)
    print(f"every step as promised, in {figures['seconds']} s")


if __name__ == "__main__":
    main()
