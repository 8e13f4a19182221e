"""Is what is configured as inside inside? Interfaces, the routes behind them, and each sender's place."""

from collections.abc import Iterator

from egressguard.core.finding import Finding, note, off, weak
from egressguard.core.routes import Route, stray
from egressguard.core.surroundings import Surroundings

SHOWN = 3
UNSEEN = "what leaves by an inside interface is not looked at"


def inside_routes(seen: Surroundings) -> Iterator[Finding]:
    """Nothing but the declared networks may lie behind an inside interface."""
    uplinks = set()
    for link in seen.inside():
        if link.default_route:
            uplinks.add(link.name)
            versions = ", ".join(f"IPv{v}" for v in sorted(link.default_route))
            yield off("default route inside", f"the default route, or as good as one ({versions}), leaves by "
                      f"{link.name}, which is configured as inside", UNSEEN,
                      f"take {link.name} out of [[inside]], or correct the route")
    declared = [network for inside in seen.settings.inside for network in inside.networks]
    found: dict[tuple[str, bool], list[Route]] = {}
    for route in stray(seen.routes, declared):
        if route.interface not in uplinks:
            found.setdefault((route.interface, route.onward), []).append(route)
    for (name, onward), routes in found.items():
        more = f" and {len(routes) - SHOWN} more" if len(routes) > SHOWN else ""
        listed = ", ".join(str(route.network) for route in routes[:SHOWN]) + more
        if onward:
            yield weak("route inside", f"{listed} lies behind another router on inside interface {name}, "
                       "and in no inside network", f"{UNSEEN}, so mail can go there",
                       "add it to inside.networks if it is yours, or correct the route")
        else:
            yield note("network inside", f"{listed} is on inside interface {name}, and in no inside network",
                       f"{UNSEEN}, and hosts there are nobody's", "add it to inside.networks")


def inside_interfaces(seen: Surroundings) -> Iterator[Finding]:
    """Rules see the name of the interface that a packet is said to come in by."""
    there = {link.name: link for link in seen.links}
    for name in sorted(seen.settings.inside_interfaces()):
        if name not in there:
            yield weak("inside interface", f"{name}, configured as inside, does not exist",
                       "what came in by it comes in by another name, or not at all: no sender matches there",
                       "correct [[inside]], or make the interface; nothing, if it comes and goes")
            continue
        master = there.get(there[name].master)
        if master is not None and master.kind != "bridge":  # a bridge's ports are told apart
            yield weak("enslaved interface", f"{name}, configured as inside, belongs to {master.name} "
                       f"({master.kind or 'no kind'})", f"rules see its packets come in by {master.name}, "
                       f"never by {name}: no sender matches there",
                       f"name {master.name} in [[inside]] instead")


def senders_places(seen: Surroundings) -> Iterator[Finding]:
    """A sender is an address behind an interface; it is where its route leads."""
    for sender in seen.settings.sender:
        for address in sender.addresses:
            places, way = seen.settings.interfaces_of(address), seen.ways.get(str(address))
            if not places or way in places or str(address) in seen.own:
                continue
            bridges = {bridge.name for bridge in seen.settings.bridges_of(address)}
            if way is None:
                yield weak("sender's place", f"no route leads to {sender.name} ({address})",
                           "it cannot be reached, and its mail has no way back",
                           "correct the route or the address")
            elif way not in bridges:
                yield weak("sender's place", f"{sender.name} ({address}) is configured behind "
                           f"{', '.join(places)}, and the route to it leads by {way}",
                           f"it is permitted behind {places[0]} only, so its mail is refused",
                           f"move its network to the [[inside]] of {way}, or correct the route")
