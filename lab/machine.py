"""One machine of the lab as the Vagrantfile makes it: its network, and its files.

    python3 -m lab.machine network ROLE     names the interfaces by their MAC, gives them addresses and routes
    python3 -m lab.machine config ROLE      prints the configuration of the role's daemon
    python3 -m lab.machine mta ROLE FILE    prints what `egressguard mta-config` says about FILE
    python3 -m lab.machine key, exchange    prints the key that signs, and where messages are left
    python3 -m lab.machine transport ROLE   prints where a Postfix delivers the lab's domains

Needs the standard library only: a machine without egressguard has no more. The default route stays the
provider's, by which the machine is managed; only the lab's addresses go the way of the story.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from egressguard import mta_config
from lab.deployment import relay_config, router_config
from lab.postfix import inline
from lab.topology import (
    INSIDE,
    INTERNET4,
    OUTSIDE,
    RELAY,
    ROUTER_MAC,
    TOPOLOGY,
    gateway_commands,
    host_commands,
    internet_commands,
    uplink_commands,
)
from lab.traffic import ROUTES

INTERFACE = "lab0"
LAB6 = "2001:db8::/32"
CLIENTS = ("192.0.2.0/26", "198.51.100.0/24", "2001:db8::/32")  # who may send through the relay
LIMIT = 40  # messages in ten minutes for a normal host
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def wires(role: str) -> dict[str, str]:
    """The interfaces of a role, each with its MAC."""
    if role == "router":
        return ROUTER_MAC
    return {INTERFACE: next(place.mac for place in (*INSIDE, OUTSIDE) if place.name == role)}


def network_commands(role: str) -> list[str]:
    """`ip` commands for the addresses and routes of a role."""
    if role == "router":
        gateways = [command for name in ROUTER_MAC for command in gateway_commands(name)]
        return [*gateways, *uplink_commands((INTERNET4, LAB6))]
    place = next(place for place in (*INSIDE, OUTSIDE) if place.name == role)
    return [*host_commands(place, INTERFACE, (*_elsewhere(place.segment), LAB6)),
            *(internet_commands() if place is OUTSIDE else ())]


def _elsewhere(segment: str) -> list[str]:
    """The IPv4 networks that are not on this segment."""
    others = [other["network"] for name, other in TOPOLOGY["segments"].items() if name != segment]
    return [*others, *(() if segment == OUTSIDE.segment else (INTERNET4,))]


def rename_commands(role: str, links: list[dict[str, str]]) -> list[str]:
    """`ip` commands that give the interfaces in `links` (as `ip -j link` lists them) their names."""
    by_mac = {link["address"]: link["ifname"] for link in links if "address" in link}
    commands = []
    for name, mac in wires(role).items():
        if mac not in by_mac:
            raise SystemExit(f"lab.machine: {role} has no interface with MAC {mac}; it has {by_mac}")
        if by_mac[mac] != name:
            commands += [f"link set {by_mac[mac]} down", f"link set {by_mac[mac]} name {name}"]
        commands.append(f"link set {name} up")
    return commands


def set_up_network(role: str) -> None:
    """Brings the network of this machine into its state; again changes nothing."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    batch = "\n".join([*rename_commands(role, links), *network_commands(role)]) + "\n"
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
    if role == "router":
        for key in FORWARDING:
            Path("/proc/sys", key).write_text("1\n")


def mta(host: str, file: str) -> str:
    """What stands in a file of the host's MTA, as the how-to has it: the relay's or a client's."""
    networks = CLIENTS if host == "relay" else ()
    role, relays = ("relay", ()) if networks else ("client", (RELAY.ipv4,))
    site = mta_config.site(role, relays, networks, "inet:8892@127.0.0.1", "5m", "15m")
    parts = mta_config.parts("sendmail" if host == "web1" else "postfix", role, site)
    return "".join(part.text for part in parts if part.where == file)


def transport(role: str) -> str:
    """A transport table inside main.cf; who sends through the relay needs none."""
    return inline(ROUTES) if role in ("relay", "mailserver") else ""


EXCHANGE = RELAY.ipv4
KEY = "lab " + 32 * "1ab0"  # of a lab that anybody can build, so it is nobody's secret
STATE_LINE = 'state = "/var/lib/egressguard-milter"\n'  # what its unit gives it
EXCHANGE_LINES = f"""exchange = "redis://{EXCHANGE}:6379"
exchange_key = "/etc/egressguard/exchange.key"
"""
CONFIG = {"router": router_config, "relay": lambda: STATE_LINE + relay_config(LIMIT)}

PRINTED: dict[str, Callable[..., str]] = {
    "config": lambda role: EXCHANGE_LINES + CONFIG[role](), "key": lambda: KEY + "\n",
    "exchange": lambda: EXCHANGE + "\n", "mta": mta, "transport": transport}

if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "network":
        set_up_network(*rest)
    else:
        print(PRINTED[verb](*rest), end="")
