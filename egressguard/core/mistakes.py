"""What is wrong with a router's configuration that no single field can tell."""

import math
import re
from collections.abc import Iterator
from ipaddress import ip_network

from egressguard.core.errors import Mistake
from egressguard.core.exchange_url import url_mistakes
from egressguard.core.hosts import Address, Host, host_of, hosts_of
from egressguard.core.metrics_place import place_mistakes
from egressguard.core.notify_settings import notify_mistakes
from egressguard.core.path_settings import (
    bridge_mistakes,
    cgroup_mistakes,
    interface_mistakes,
    last_line_mistakes,
    redirect_mistakes,
    sinkhole_mistakes,
)
from egressguard.core.routes import wide
from egressguard.core.settings import SMTP_PORT, Detection, Machine, Settings


def mistakes(settings: Settings) -> Iterator[Mistake]:
    """Everything wrong with `settings` that no single field can tell."""
    if not settings.inside and not settings.bridge:
        yield Mistake("inside", "is missing: name the interfaces and networks that hosts live behind, or a "
                                "[[bridge]]", needs=("bridge",))
    yield from bridge_mistakes(settings.bridge)
    yield from redirect_mistakes(
        settings.redirect, frozenset(a for sender in settings.sender for a in sender.addresses),
        [*(["answer"] if settings.answer == "redirect" else []),
         *(f"group.{i}.answer" for i, group in enumerate(settings.group) if group.answer)])
    yield from sinkhole_mistakes(settings.sinkhole)
    yield from cgroup_mistakes(settings.own.cgroups)
    yield from last_line_mistakes(settings.last_line, settings.inside_interfaces(), settings.permitted_mark)
    for i, inside in enumerate(settings.inside):
        yield from interface_mistakes(f"inside.{i}.interfaces", inside.interfaces)
    yield from _wide_mistakes(settings)
    yield from _zone_mistakes(settings)
    yield from _overlaps(settings)
    for key, machine in settings.machines():
        yield from _machine_mistakes(key, machine, settings)
    yield from _double_use(settings)
    yield from _sender_mistakes(settings)
    yield from _group_mistakes(settings)
    yield from _port_mistakes(settings)
    yield from _canary_mistakes(settings)
    yield from url_mistakes(settings.exchange, settings.exchange_key)
    yield from place_mistakes(settings.metrics)
    yield from notify_mistakes(settings.notify)
    yield from _number_mistakes(settings)


def _wide_mistakes(settings: Settings) -> Iterator[Mistake]:
    """What is inside is not looked at when it is where a packet goes."""
    for key, network in [
            *((f"inside.{i}", n) for i, inside in enumerate(settings.inside) for n in inside.networks),
            *((f"bridge.{i}", n) for i, bridge in enumerate(settings.bridge) for n in bridge.networks)]:
        if wide(network):
            yield Mistake(f"{key}.networks", f"{network} is as wide as the Internet: name the networks in "
                          "which your hosts live")


def _zone_mistakes(settings: Settings) -> Iterator[Mistake]:
    """What follows a `%` is free text to Python's addresses, and would reach nft as it stands."""
    placed = [*((f"inside.{i}", n) for i, inside in enumerate(settings.inside) for n in inside.networks),
              *((f"bridge.{i}", n) for i, bridge in enumerate(settings.bridge) for n in bridge.networks),
              *((f"group.{i}", n) for i, group in enumerate(settings.group) for n in group.networks)]
    machines = [(key, a) for key, machine in settings.machines() for a in machine.addresses]
    for key, address in [*((f"{key}.networks", n.network_address) for key, n in placed),
                         *((f"{key}.addresses", a) for key, a in machines),
                         *(("redirect.relays", a) for a in settings.redirect.relays),
                         *(("own.relays", a) for a in settings.own.relays),
                         *(("canary.addresses", a) for a in settings.canary.addresses)]:
        if getattr(address, "scope_id", None) is not None:
            yield Mistake(key, f"{str(address)!r} has a zone: leave out the % and what follows it")


def _overlaps(settings: Settings) -> Iterator[Mistake]:
    """A network behind two declarations would give its senders two places to send from."""
    placed = [(i, n) for i, inside in enumerate(settings.inside) for n in inside.networks]
    for position, (i, one) in enumerate(placed):
        for j, other in placed[position + 1:]:
            if i != j and one.version == other.version and one.overlaps(other):
                yield Mistake(f"inside.{j}.networks", f"{other} overlaps {one} of inside.{i}: a "
                              "network lives behind one [[inside]]; list all its interfaces there")


def _machine_mistakes(key: str, machine: Machine, settings: Settings) -> Iterator[Mistake]:
    if not machine.name.strip() or not machine.name.isprintable():
        yield Mistake(f"{key}.name", f"{machine.name!r} is no name: use printable characters")
    if not machine.addresses:
        yield Mistake(f"{key}.addresses", f"is empty: give the addresses of {machine.name!r}",
                      needs=(f"{key}.addresses",))
    if machine.mac is not None and not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", machine.mac):
        yield Mistake(f"{key}.mac", f"{machine.mac!r} is no MAC address; write it as `ip neighbour` "
                      "shows it, such as 00:00:5e:00:53:0a")
    if not settings.inside and not settings.bridge:
        return  # which is the mistake
    placed = [place.networks for place in settings.inside] + [bridge.networks for bridge in settings.bridge]
    networks = ", ".join(str(n) for found in placed for n in found) or "none"
    for address in machine.addresses:
        if not any(address in network for found in placed for network in found):
            yield Mistake(f"{key}.addresses",
                          f"{address} lies behind no inside interface (inside networks: {networks});"
                          " give an address inside one of them, or add its network to an [[inside]]",
                          needs=("inside.*.networks", "bridge.*.networks"))


def _double_use(settings: Settings) -> Iterator[Mistake]:
    owners: dict[Host, str] = {}
    for key, machine in settings.machines():
        for host in hosts_of(machine.addresses):
            owner = owners.setdefault(host, key)
            if owner != key:
                yield Mistake(f"{key}.addresses", f"{host} belongs to {owner} already: one host, one entry "
                              "(an IPv6 host is a whole /64)")


def _sender_mistakes(settings: Settings) -> Iterator[Mistake]:
    for i, sender in enumerate(settings.sender):
        for port in sender.ports:
            yield from interface_mistakes(f"sender.{i}.ports", (port,))
            if not any(bridge.machine_ports(frozenset({port})) for bridge in settings.bridge):
                yield Mistake(f"sender.{i}.ports", f"{port} is no machine's port of any [[bridge]]",
                              needs=("bridge.*.ports",))


def _group_mistakes(settings: Settings) -> Iterator[Mistake]:
    """A host in two groups would have two modes."""
    placed = [(i, n) for i, group in enumerate(settings.group) for n in group.networks]
    for position, (i, one) in enumerate(placed):
        for j, other in placed[position + 1:]:
            if one.version == other.version and one.overlaps(other):
                yield Mistake(f"group.{j}.networks", f"{other} overlaps {one} of group.{i}: "
                              "a host belongs to one group")
    for i, group in enumerate(settings.group):
        if not group.networks:
            yield Mistake(f"group.{i}.networks", "is empty: name the networks of its hosts",
                          needs=(f"group.{i}.networks",))
        for port in sorted({*group.also_block} & {*group.also_count}):
            yield Mistake(f"group.{i}.also_count", f"{port} stands in also_block too: choose one")


def _port_mistakes(settings: Settings) -> Iterator[Mistake]:
    if SMTP_PORT not in settings.ports:
        yield Mistake("ports", f"lacks {SMTP_PORT}: to block nothing, use mode = \"observe\"",
                      needs=("ports",))
    named = [("ports", settings.ports), *(
        (f"group.{i}.{key}", ports) for i, group in enumerate(settings.group)
        for key, ports in (("also_block", group.also_block), ("also_count", group.also_count)))]
    for key, ports in named:
        for port in ports:
            if not 0 < port < 65536:
                yield Mistake(key, f"{port} is no port: 1 to 65535")
            elif key != "ports" and port in settings.ports:
                yield Mistake(key, f"{port} is blocked for the whole site already (ports)")


def _canary_mistakes(settings: Settings) -> Iterator[Mistake]:
    """A host with the canary's address would not be judged, and an inside destination proves nothing."""
    for key in ("addresses", "destinations"):
        found: tuple[Address, ...] = getattr(settings.canary, key)
        if sorted(address.version for address in found) not in ([4], [6], [4, 6]):
            yield Mistake(f"canary.{key}", "needs one address, or one of each family",
                          needs=(f"canary.{key}",))
        for address in found:
            taken = [n for inside in settings.inside for n in inside.networks
                     if n.version == address.version and ip_network(host_of(address)).overlaps(n)]
            if taken:
                yield Mistake(f"canary.{key}", f"{address} lies in {taken[0]}, which is inside: choose an "
                              "address that no host has")


def _number_mistakes(settings: Settings) -> Iterator[Mistake]:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("period_s", settings.period_s, 0.05, 60),
        ("canary.period_s", settings.canary.period_s, 5, 86400),
        ("signal_lifetime_s", settings.signal_lifetime_s, 5, 86400),
        ("detection.half_life_s", settings.detection.half_life_s, 60, 30 * 86400),
        ("detection.false_alarm", settings.detection.false_alarm, 1e-9, 0.5),
        ("detection.suspect_false_alarm", settings.detection.suspect_false_alarm, 1e-9, 0.5),
        ("detection.hold_false_alarm", settings.detection.hold_false_alarm, 1e-9, 0.5),
        ("detection.missed", settings.detection.missed, 1e-9, 0.5),
        ("detection.new_destination_if_spambot",
         settings.detection.new_destination_if_spambot, 0.01, 0.99),
        ("detection.new_destination_if_benign",
         settings.detection.new_destination_if_benign, 0.01, 0.99),
    )
    for key, value, low, high in bounds:
        if not (math.isfinite(value) and low <= value <= high):
            yield Mistake(key, f"{value} is out of range: {low} to {high}")
    yield from _order_mistakes(settings.detection)


def _order_mistakes(detection: Detection) -> Iterator[Mistake]:
    if detection.false_alarm > detection.suspect_false_alarm:
        yield Mistake("detection.false_alarm",
                      "is above suspect_false_alarm: `compromised` needs more evidence than `suspect`",
                      needs=("detection.suspect_false_alarm",))
    if detection.hold_false_alarm > detection.false_alarm:
        yield Mistake("detection.hold_false_alarm",
                      "is above false_alarm: proposing to hold a host needs more evidence than `compromised`",
                      needs=("detection.false_alarm",))
    if detection.new_destination_if_spambot <= detection.new_destination_if_benign:
        yield Mistake("detection.new_destination_if_spambot", "is not above "
                      "new_destination_if_benign: new destinations must speak for a spambot",
                      needs=("detection.new_destination_if_benign",))
