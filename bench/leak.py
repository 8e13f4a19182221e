"""Spam that gets out: script/bench leak [--scale N] [--json FILE].

One hour in the life of a compromised web server whose bot sends 10,000 messages, half of them directly, half
through the relay, beside a healthy web server that sends 120 through the same relay. Real nft rules, daemons,
Postfix and milter; what counts is what arrives at the sink outside. Time is scaled: an hour takes 3600 / N
seconds, and every window, lifetime and period is divided by N as well (periods not below 50 ms, lifetimes not
below a second, so the daemons are slower than in life by what is missing; and the judge's own times are not
divided, so it is slower as well). The arms run beside each other, each in its own network.

A host with a mail history has mailed to some domains by the relay, as a web server does, before its bot
begins: to the judge it may be a mail server that has lost its way. A bot that names many recipients sends
what goes through the relay to as many as it takes.
"""

import argparse
import json
import random
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path
from typing import Any

from egressguard.exchange import open_exchange
from egressguard_milter.policy import RECIPIENTS_EACH, Tiers
from lab.deployment import MILTER_PORT, Deployment
from lab.mail import send
from lab.namespaces import LabError, wait_until
from lab.network import RELAY, WEB2, World
from lab.postfix import Postfix
from lab.sink import Sink

SPAM, HEALTHY = 10_000, 120  # messages an hour
HOUR_S, WINDOW_S = 3600.0, 600.0
MOST_STRETCH = 1.05  # a longer hour has more windows
STATIC = 40  # messages in ten minutes: the how-to's MsgRate
DEFAULT = Tiers().compromised.factor
HISTORY = 5  # domains: three are enough for the judge to expect a queue
MANY = 50  # recipients that a bot of this kind names in each message
STATIC_TO_MANY, OURS_TO_MANY = f"static limits, {MANY} recipients", f"egressguard, {MANY} recipients"
OURS = ("egressguard", "egressguard, mail history", OURS_TO_MANY)
REQUIRED, REQUIRED_DELAYED = 0.1, 0.01  # of the static limits' spam; of the healthy server's messages
ARMS = {
    "nothing": "no firewall, no limits",
    "firewall only": "port 25 is shut, the relay takes everything",
    "static limits": f"port 25 is shut, ze-filter's limit: {STATIC} messages in 10 minutes",
    "egressguard": f"the same limit, {DEFAULT:g} times that for a compromised host (the default)",
    "egressguard, mail history":
        f"the same, and the bot's host has mailed to {HISTORY} domains by the relay before",
    "egressguard, factor 0.1": "the same limit, a tenth of it for a compromised host",
    STATIC_TO_MANY: f"as static limits, {RECIPIENTS_EACH} recipients for each message; the bot names {MANY}",
    OURS_TO_MANY: f"as egressguard; the bot names {MANY} recipients in each message",
}
TO_MANY = (STATIC_TO_MANY, OURS_TO_MANY)
# Which arms run beside each other, and the one that each of them is compared with.
TOGETHER = {"static limits": [arm for arm in ARMS if arm not in TO_MANY], STATIC_TO_MANY: list(TO_MANY)}


def play(arm: str, scale: float, seed: int) -> dict[str, Any]:
    """One arm's hour: messages of the bot that arrived, and what became of the healthy server's."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="egressguard-leak-")))
        world = ending.enter_context(World())
        sink = ending.enter_context(Sink(world.outside))
        deployment = Deployment(world, folder, messages=STATIC)
        _configure(deployment, arm, scale)
        limited = arm not in ("nothing", "firewall only")
        if arm != "nothing":
            deployment.start_router()
        if limited:
            deployment.start_milter()
        ending.enter_context(Postfix(
            world.relay, networks=("192.0.2.0/26", "198.51.100.0/24", "[2001:db8::]/32"),
            routes=dict.fromkeys(("outside.example", *_domains()), "203.0.113.130"),
            milter=MILTER_PORT if limited else None))
        history = _mail_before(world, deployment, scale) if "history" in arm else 0
        began_s = time.monotonic()
        relayed, healthy = _hour(world, scale, seed, to_many=arm in TO_MANY)
        stretch = (time.monotonic() - began_s) * scale / HOUR_S
        expected = relayed[250] + healthy[250] + history
        wait_until(lambda: _arrived(sink, RELAY.ipv4) >= expected, "all that the relay took", timeout_s=120)
        spam = [m for m in sink.messages() if m.subject.startswith("spam")]
        return {"arm": arm, "spam_delivered": len(spam),
                "spam_recipients": sum(len(m.recipients) for m in spam),
                "spam_taken_by_relay": relayed[250],
                "spam_direct": _arrived(sink, WEB2.ipv4), "healthy_sent": healthy.total(),
                "healthy_delayed": healthy.total() - healthy[250], "scale": scale,
                "stretch": round(stretch, 3)}


def _domains() -> list[str]:
    return [f"customer{n}.example" for n in range(HISTORY)]


def _mail_before(world: World, deployment: Deployment, scale: float) -> int:
    """What the bot's host mails before it has a bot, until the router knows of it and the relay's window is
    empty.
    """
    wait_until(lambda: deployment.status()[1]["relays"].get("relay", {}).get("fresh"), "a first report")
    for domain in _domains():
        if _send(world.web2, RELAY.ipv4, "before", f"somebody@{domain}") != 250:
            raise LabError("the relay took no mail of the host before its bot")

    def reported() -> bool:
        with closing(open_exchange(deployment.exchange_url, read_only=True)) as exchange:
            return any(client.domains >= HISTORY for report in exchange.reports()
                       for client in report.clients.values())
    wait_until(reported, "a report of them")
    time.sleep(2 * WINDOW_S / scale)
    return HISTORY


def _configure(deployment: Deployment, arm: str, scale: float) -> None:
    period_s = max(0.05, 0.25 / scale)
    deployment.amend('router = "router"', f'router = "router"\nperiod_s = {period_s}')
    text = deployment.milter_config.read_text()
    text = text.replace("window_s = 600.0", f"window_s = {WINDOW_S / scale}")
    if arm in TOGETHER:
        text = text.replace("exchange.db", "nobody.db")
    if arm in OURS:
        text = text.replace("factor = 0.1", f"factor = {DEFAULT}")
    deployment.milter_config.write_text(f"signal_poll_s = {max(0.05, 0.2 / scale)}\n"
                                        f"report_lifetime_s = {max(1.0, 30 / scale)}\n{text}")
    # A score's half-life of an hour is long enough at any scale: no verdict lapses within the hour.


def _arrived(sink: Sink, client: str) -> int:
    return sum(m.client == client for m in sink.messages())


def _hour(world: World, scale: float, seed: int, *, to_many: bool) -> tuple[Counter[int], Counter[int]]:
    """What the relay answered to the bot, and to the healthy server."""
    relayed, healthy = Counter[int](), Counter[int]()
    chance = random.Random(seed)

    def through_the_relay(number: int) -> None:
        subject = f"spam {number}"
        code = world.web2.call(_to_many, subject) if to_many else _send(world.web2, RELAY.ipv4, subject)
        relayed[code] += 1

    def directly(number: int) -> None:
        world.web2.call(_direct, f"203.0.113.{chance.randint(130, 250)}", f"spam {number}")

    def well(number: int) -> None:
        healthy[_send(world.web1, RELAY.ipv4, f"healthy {number}")] += 1

    threads = [threading.Thread(target=_steadily, args=(act, count, HOUR_S / scale)) for act, count in (
        (through_the_relay, SPAM // 2), (directly, SPAM // 2), (well, HEALTHY))]
    time.sleep(chance.uniform(0.0, 0.5))  # the bot begins anywhere between two polls
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return relayed, healthy


def _send(host: Any, server: str, subject: str, recipient: str = "victim@outside.example") -> int:
    return send(host, server, recipients=[recipient], subject=subject).code


def _to_many(subject: str) -> int:
    """250 when the relay has taken the message, for the recipients before the first that it refused.

    After some twenty refusals Postfix hangs up, and none would get the message.
    """
    try:
        with smtplib.SMTP(RELAY.ipv4, 25, local_hostname=f"{WEB2.name}.example", timeout=30) as smtp:
            smtp.ehlo()
            smtp.mail("bot@web.example")
            codes = (smtp.rcpt(f"victim{number}@outside.example")[0] for number in range(MANY))
            taken = len(list(takewhile(lambda code: code == 250, codes)))
            return smtp.data(f"Subject: {subject}\r\n\r\nbuy\r\n")[0] if taken else 0
    except (OSError, smtplib.SMTPException):
        return 0


def _direct(address: str, subject: str) -> None:
    try:
        with smtplib.SMTP(address, 25, local_hostname=f"{WEB2.name}.example", timeout=5) as smtp:
            smtp.sendmail("bot@web.example", ["victim@outside.example"], f"Subject: {subject}\r\n\r\nbuy\r\n")
    except (TimeoutError, OSError, smtplib.SMTPException):
        return


def _steadily(act: Callable[[int], None], count: int, seconds: float) -> None:
    """Calls `act` so often, evenly; a slow answer holds back nothing."""
    began_s = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        for number in range(count):
            time.sleep(max(0.0, began_s + number * seconds / count - time.monotonic()))
            pool.submit(act, number)


def main() -> None:
    """Plays every arm and prints what got out."""
    parser = argparse.ArgumentParser(prog="script/bench leak", description=__doc__)
    parser.add_argument("--scale", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=1, help="hours, one after the other; the worst counts")
    parser.add_argument("--seed", type=int, default=1, help="of the bot's destinations and its beginning")
    parser.add_argument("--arm", choices=ARMS, help="play this one only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(play(arguments.arm, arguments.scale, arguments.seed)))
        return
    print(f"one hour in {HOUR_S / arguments.scale:.0f} s (scale {arguments.scale:g})", flush=True)
    found = [figures for seed in range(arguments.seed, arguments.seed + arguments.seeds)
             for figures in beside_each_other(arguments.scale, seed)]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    ours = [figures for figures in found if figures["arm"] in OURS]
    leaked = max(figures["of_static"] for figures in ours)
    delayed = max(figures["healthy_delayed"] / figures["healthy_sent"] for figures in ours)
    print(f"at worst {leaked:.3f} of what static limits let out (required: {REQUIRED}), "
          f"{delayed:.2%} of the healthy server's messages delayed (required: {REQUIRED_DELAYED:.0%})")
    sys.exit(leaked > REQUIRED or delayed > REQUIRED_DELAYED)


def beside_each_other(scale: float, seed: int) -> list[dict[str, Any]]:
    """Every arm's hour, printed; exits when this machine is too slow for that scale."""
    return [figures for static, arms in TOGETHER.items() for figures in _compared(static, arms, scale, seed)]


def _compared(static: str, arms: list[str], scale: float, seed: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "bench.leak", "--scale", str(scale), "--seed", str(seed), "--arm"]
    running = [subprocess.Popen([*command, arm], stdout=subprocess.PIPE, text=True) for arm in arms]
    found: list[dict[str, Any]] = [json.loads(process.communicate()[0]) for process in running]
    if max(f["stretch"] for f in found) > MOST_STRETCH:
        sys.exit(f"leak: this machine is too slow for scale {scale:g}: an hour took up to "
                 f"{max(f['stretch'] for f in found):.2f} hours; use a smaller one")
    of_all = next(f["spam_recipients"] for f in found if f["arm"] == static)
    for figures in found:
        figures["seed"], figures["of_static"] = seed, round(figures["spam_recipients"] / of_all, 4)
        print(f"{figures['arm']:28} {figures['spam_delivered']:6} messages of the bot arrived, for "
              f"{figures['spam_recipients']:6} recipients ({figures['of_static']:6.2f} × static), "
              f"{figures['healthy_delayed']} of "
              f"{figures['healthy_sent']} healthy ones delayed: {ARMS[figures['arm']]}", flush=True)
    return found


if __name__ == "__main__":
    main()
