"""What a packet costs under different rulesets, as ratios of medians of interleaved runs.

The cost is the CPU time of the whole way of a packet, from the send call to where the router is done with it.
The unit is a bare drop in the forward hook with connection tracking on, as on any router that filters or
translates. The stricter ratio takes off what a drop at the router's door costs, thus what sending costs.
"""

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from bench.firewall.line import Line
from egressguard.core.plan import diff, transaction
from egressguard.core.policy import desired, port_bits
from egressguard.core.ruleset import CONFIGURED
from egressguard.core.settings import Group, Inside, Machine, Settings
from lab.network import WEB2

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "rules/egressguard.nft").read_text("utf-8")
FLOOR = """table netdev floor {
    chain c {
        type filter hook ingress device "web" priority 0
        drop
    }
}
"""
TRACKED = """table inet tracked {
    chain c {
        type filter hook forward priority 0
        ct state established accept
    }
}
"""
BARE = TRACKED + """table inet bare {
    chain c {
        type filter hook forward priority -10
        tcp dport 25 drop
    }
}
"""
INVENTORY = int(IPv6Address("2001:db8:1000::"))
FEW = {4: [ip_address(f"203.0.113.{n}") for n in range(130, 194)],
       6: [ip_address(f"2001:db8:ffff::{n}") for n in range(130, 194)]}


@dataclass(frozen=True)
class Ruleset:
    """A name for the table, and what loads it into the router."""

    name: str
    load: Callable[[Line], None]


def nft(name: str, text: str) -> Ruleset:
    """Rules that nft loads."""
    return Ruleset(name, lambda line: line.load(text))


def egressguard(hosts: int, text: str = RULES, group: tuple[Group, ...] = ()) -> str:
    """The rules with an inventory of so many IPv6 hosts, and web2, beside connection tracking."""
    machines = (*(Machine(f"h{n}", (inventory_address(n),)) for n in range(hosts)),
                Machine("web2", tuple(map(ip_address, WEB2.addresses))))
    settings = Settings(inside=(Inside(("web",), ()),), host=machines, group=group)
    mask, bits = port_bits(settings)
    for name, value in (("smtp_mask", mask), ("smtp_bits", bits)):
        text = re.sub(f"(?<=redefine {name} = ).*", str(value), text)
    return TRACKED + text + transaction(diff({name: frozenset() for name in CONFIGURED}, desired(settings)))


def inventory_address(number: int) -> IPv6Address:
    """The address of the host with this number; each has a /64 of its own, outside the lab's."""
    return IPv6Address(INVENTORY + (number << 64))


ANSWER_DROP = "add element inet egressguard answer_drop { ipv4, ipv6 }\n"


def without(*lines: str) -> str:
    """The rules without these lines, loaded with an inventory of a hundred."""
    text = RULES
    for line in ("\t\tth dport 25 goto flood\n", *lines):
        if line not in text:
            raise ValueError(f"the rules have no line {line!r}")
        text = text.replace(line, "")
    return egressguard(100, text) + ANSWER_DROP


# The way of a SYN that nothing is remembered of, and what each of its parts adds.
FIB, MAC = "\t\tfib saddr . iif oif missing goto spoof\n", "\t\tct state != invalid jump attempt_mac\n"
HOST, PAIR = "\t\tgoto host\n", "goto inventory_destination; "
REMEMBER = "\t\tjump remember\n"
IN_FULL = "every SYN looked at in full"
PARTS = (
    nft("drop at the door (floor)", FLOOR),
    nft("bare forward drop", BARE),
    nft(IN_FULL, without()),
    nft("… without remembering it", without(REMEMBER)),
    nft("… without the reverse-path lookup", without(FIB)),
    nft("… without its MAC", without(MAC)),
    nft("… without host and destination", without(HOST)),
    nft("… without any of these", without(REMEMBER, FIB, MAC, HOST)),
)


def costs_ns(line: Line, rulesets: tuple[Ruleset, ...], count: int, rounds: int, family: int = 4
             ) -> dict[str, list[float]]:
    """CPU nanoseconds per packet of every ruleset in every round, in turn."""
    made = line.syns([ip_address(WEB2.addresses[family == 6])], FEW[family])
    costs: dict[str, list[float]] = {ruleset.name: [] for ruleset in rulesets}
    for _ in range(rounds):
        for ruleset in rulesets:
            ruleset.load(line)
            line.send(made, count // 10)  # warm: the answers' allowance is used up
            costs[ruleset.name].append(line.send(made, count))
    return costs


def ratios(costs: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Each cost relative to the second one's: plain, and both above the first's; medians of the rounds'."""
    floor, unit, *_ = costs
    median = statistics.median
    return {name: (median(a / b for a, b in zip(values, costs[unit], strict=True)),
                   median((a - low) / (b - low)
                          for a, b, low in zip(values, costs[unit], costs[floor], strict=True)))
            for name, values in costs.items() if name != floor}
