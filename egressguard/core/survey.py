"""What a machine looks like to `egressguard init`, and the configuration that follows, with its reasons.

Whoever only sends is not proposed as a sender: a spambot looks like that. Who also receives mail is.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface

from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import Address
from egressguard.core.path_settings import Network
from egressguard.core.routes import wide
from egressguard.core.surroundings import Link

LIKELY_EVIDENCE = frozenset({"sends", "receives"})


@dataclass(frozen=True, slots=True)
class Flow:
    """An established connection to port 25, seen by connection tracking."""

    source: Address
    destination: Address


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found: links, routes that lead on behind them, SMTP connections, who answers on port 25, and
    the MAC of each neighbour.
    """

    links: tuple[Link, ...]
    routes: tuple[tuple[str, Network], ...] = ()
    flows: tuple[Flow, ...] = ()
    listeners: frozenset[Address] = frozenset()
    macs: dict[Address, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """An interface, whether it is inside, its networks, and why."""

    interface: str
    inside: bool
    networks: tuple[Network, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A machine that speaks SMTP; `likely` is one that may go on doing so."""

    name: str
    addresses: tuple[Address, ...]
    likely: bool
    why: str


def places(survey: Survey, inside: frozenset[str] = frozenset(),
           outside: frozenset[str] = frozenset()) -> list[Place]:
    """Every interface that can carry hosts. Raises EgressguardError for a name that does not exist."""
    known = {link.name for link in survey.links}
    for name in sorted((inside | outside) - known):
        raise EgressguardError(f"{name}: there is no such interface; there are {', '.join(sorted(known))}")
    for name in sorted(inside & outside):
        raise EgressguardError(f"{name}: named as inside and as outside")
    return [_place(survey, link, inside, outside) for link in survey.links
            if link.name != "lo" and not link.master]


def _place(survey: Survey, link: Link, inside: frozenset[str], outside: frozenset[str]) -> Place:
    own = [ip_interface(address).network for address in link.addresses]
    behind = [network for name, network in survey.routes if name == link.name]
    networks = tuple(dict.fromkeys(n for n in (*own, *behind) if not wide(n)))
    if link.name in outside:
        return Place(link.name, False, networks, "named with --outside")
    if link.name in inside:
        return Place(link.name, True, networks, "named with --inside")
    if link.default_route:
        return Place(link.name, False, networks, "a default route leads through it, or routes as good as one")
    if not link.up:
        return Place(link.name, False, networks, "it is down")
    if not networks:
        return Place(link.name, False, networks, "it has no network")
    return Place(link.name, True, networks, "it has a network and no default route")


def candidates(survey: Survey, chosen: list[Place]) -> list[Candidate]:
    """The inside machines that speak SMTP, the likely ones first. Addresses with one MAC are one machine."""
    networks = [n for place in chosen if place.inside for n in place.networks]

    def lives_inside(address: Address) -> bool:
        return any(n.version == address.version and address in n for n in networks)

    seen: dict[Address, dict[str, str]] = {}
    for flow in survey.flows:
        if lives_inside(flow.source) and not lives_inside(flow.destination):
            seen.setdefault(flow.source, {})["sends"] = f"sends mail to {flow.destination}"
        if lives_inside(flow.destination):
            seen.setdefault(flow.destination, {})["receives"] = f"receives mail from {flow.source}"
    for address in survey.listeners:
        if lives_inside(address):
            seen.setdefault(address, {}).setdefault("receives", "answers on port 25")
    machines: dict[str, list[Address]] = {}
    for address in sorted(seen, key=lambda a: (a.version, int(a))):
        machines.setdefault(survey.macs.get(address, str(address)), []).append(address)
    found = [_candidate(addresses, seen) for addresses in machines.values()]
    found.sort(key=lambda c: not c.likely)
    return [Candidate(f"mail{n}", c.addresses, c.likely, c.why) for n, c in enumerate(found, 1)]


def _candidate(addresses: list[Address], seen: dict[Address, dict[str, str]]) -> Candidate:
    evidence = {kind: text for address in addresses for kind, text in seen[address].items()}
    likely = evidence.keys() >= LIKELY_EVIDENCE
    doubt = "" if likely else ("; only sending is what a spambot does too" if "sends" in evidence
                               else "; it was not seen sending")
    return Candidate("", tuple(addresses), likely, " and ".join(evidence.values()) + doubt)


def named(text: str) -> Candidate:
    """The sender in `NAME=ADDRESS[,ADDRESS]`. Raises EgressguardError."""
    name, equals, addresses = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        return Candidate(name, tuple(ip_address(a.strip()) for a in addresses.split(",")), True,
                         "named with --sender")
    except ValueError:
        raise EgressguardError(f"--sender {text!r}: write NAME=ADDRESS, such as relay=192.0.2.10, or "
                               "relay=192.0.2.10,2001:db8:0:a::2") from None


def configuration(router: str, chosen: list[Place], senders: list[Candidate],
                  doubtful: list[Candidate]) -> str:
    """The file, in mode observe. Raises EgressguardError when nothing is inside."""
    inside = [place for place in chosen if place.inside]
    if not inside:
        raise EgressguardError("no interface is inside:\n" + "\n".join(
            f"{place.interface}: outside, because {place.why}" for place in chosen) +
            "\nname those that hosts live behind: --inside INTERFACE")
    for place in inside:
        if not place.networks:
            raise EgressguardError(f"{place.interface}: has no address, so nobody knows which hosts live "
                                   "behind it; configure it first")
    return "\n".join(_lines(router, chosen, senders, doubtful)) + "\n"


def _lines(router: str, chosen: list[Place], senders: list[Candidate],
           doubtful: list[Candidate]) -> Iterator[str]:
    yield "# Written by `egressguard init`. Every key and its default: the example in the documentation."
    yield f"router = {json.dumps(router)}"
    yield ""
    yield "# Nothing is blocked yet: `egressguard hosts --would-block` lists who would be. Name the senders"
    yield '# below, then write "enforce" here and say `systemctl reload egressguard`.'
    yield 'mode = "observe"'
    yield ""
    for place in chosen:
        yield f"# {place.interface} is {'inside' if place.inside else 'outside'}: {place.why}."
    for interfaces, networks in _joined([place for place in chosen if place.inside]):
        yield ""
        yield "[[inside]]"
        yield f"interfaces = {json.dumps(interfaces)}"
        yield f"networks = {json.dumps(list(map(str, networks)))}"
    for sender in senders:
        yield from _sender(sender, "")
    for sender in doubtful:
        yield from _sender(sender, "# ")


def _joined(inside: list[Place]) -> list[tuple[list[str], list[Network]]]:
    """A network that is on several interfaces stands in one entry, with all of them."""
    entries: list[tuple[list[str], list[Network]]] = []
    for place in inside:
        same = next((e for e in entries if any(_overlap(n, t) for n in place.networks for t in e[1])), None)
        if same is None:
            entries.append(([place.interface], list(place.networks)))
        else:
            same[0].append(place.interface)
            same[1].extend(n for n in place.networks if not any(_overlap(n, t) for t in same[1]))
    return entries


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _sender(sender: Candidate, mark: str) -> Iterator[str]:
    yield ""
    yield f"# {sender.name}: {sender.why}." + (" Remove the marks if it may send." if mark else "")
    yield f"{mark}[[sender]]"
    yield f"{mark}name = {json.dumps(sender.name)}"
    yield f"{mark}addresses = {json.dumps(list(map(str, sender.addresses)))}"
