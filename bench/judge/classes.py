"""Every class of simulated hosts, and of each class without a target why it can have none."""

import random
from collections.abc import Callable

from bench.judge import hosts, networks
from bench.judge.hosts import Simulated
from bench.judge.parameters import Parameters

CLASSES: dict[str, Callable[[random.Random, Parameters], Simulated]] = {
    "spambot, fast": hosts.fast_bot,
    "spambot, bursty": hosts.bursty_bot,
    "spambot, low and slow": hosts.slow_bot,
    "spambot, IPv6 privacy": networks.privacy_bot,
    "spambot, behind NAT": networks.bot_behind_nat,
    "spambot, inherited address": networks.inherited_by_a_bot,
    "spambot, host mails by relay": hosts.bot_on_a_mailing_host,
    "spambot, just blocked": hosts.bot_when_just_blocked,
    "lost mailertable": hosts.lost_mailertable,
    "just-blocked server": hosts.just_blocked,
    "hard-coded smarthost": hosts.smarthost,
    "monitoring": hosts.monitoring,
    "NAT": networks.nat,
    "IPv6 privacy": networks.privacy,
    "DHCP": networks.dhcp,
    "DHCP, after a spambot": networks.after_a_bot,
    "mail server nobody knew": hosts.unknown_server,
}
WITHOUT_TARGET = {
    "mail server nobody knew":
        "its first attempts are a fan-out bot's, as many destinations,\n"
        "    each once, as fast: whoever calls the one compromised within 6 attempts calls the other;\n"
        "    the first retry, which tells them apart, comes after 5 minutes at the earliest",
}
