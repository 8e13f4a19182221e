"""What the hosts of the story send, in namespaces or on machines: `python -m lab.traffic HOST`."""

import socket
import sys
import time
from functools import partial

from lab.host import Here, Host
from lab.mail import Reply, send, send_burst
from lab.topology import FIRST, PREFIXES, RELAY, SOMEBODY4, SOMEBODY6

SMTP = 25
DESTINATIONS = 30  # of each family
PAUSE_S = 0.04  # between the bot's connections
SPAM = 30  # messages through the relay, in each family
FOUR, SIX = "four.example", "six.example"  # recipient domains that live at an IPv4 and an IPv6 address
ROUTES = {FOUR: SOMEBODY4, SIX: SOMEBODY6}


def connects(address: str) -> bool:
    """Whether a connection to port 25 is accepted."""
    try:
        socket.create_connection((address, SMTP), timeout=5).close()
    except OSError:
        return False
    return True


def bot_tries_the_first_door(host: Host) -> list[str]:
    """Connects to many outside addresses of both families; the ones that answered."""
    reached = []
    for n in range(DESTINATIONS):
        reached += [a for a in (f"{prefix}{FIRST + n}" for prefix in PREFIXES) if host.call(connects, a)]
        time.sleep(PAUSE_S)
    return reached


def bot_tries_the_second_door(host: Host) -> list[Reply]:
    """Spam through the relay, in both families."""
    return [reply for domain, via in zip(ROUTES, RELAY.addresses, strict=True)
            for reply in send_burst(host, via, SPAM, recipients=[f"victim@{domain}"], subject="web2 spam")]


def _through_its_own_mta(name: str) -> str:
    """As an application does."""
    return _sent([send(Here(), "127.0.0.1", recipients=[f"somebody@{domain}"], subject=f"{name} {domain}")
                  for domain in ROUTES])


def _web2() -> str:
    """The compromised one: both doors."""
    reached = bot_tries_the_first_door(Here())
    time.sleep(5)  # until the relay has heard of it
    return f"{len(reached)} of {2 * DESTINATIONS} addresses reached directly; through the relay " + _sent(
        bot_tries_the_second_door(Here()))


def _sent(replies: list[Reply]) -> str:
    accepted = [reply.accepted for reply in replies].count(True)
    others = sorted({f"{reply.code} {reply.text}"[:70] for reply in replies if not reply.accepted})
    return "; ".join([f"{accepted} of {len(replies)} messages accepted", *others])


STORY = {name: partial(_through_its_own_mta, name) for name in ("web1", "mailserver")} | {"web2": _web2}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {STORY[name]()}", flush=True)
