"""Do the tables beside the router's stand on their path? What bridges and the last line need around them."""

from collections.abc import Iterator

from egressguard.core.finding import Finding, note, off, weak
from egressguard.core.surroundings import Surroundings

EGRESS_HOOK = (5, 16)


def bridge_table(seen: Surroundings) -> Iterator[Finding]:
    """Frames between the ports of a bridge meet the bridge's table alone, or first."""
    if not seen.settings.bridge:
        return
    hooks = seen.beside.get("bridge")
    if hooks is None:
        yield off("bridge table", "table bridge egressguard is not in the kernel",
                  "frames between the ports of a bridge are judged by nobody", "start egressguard")
    elif not hooks.get("egress_bridge", "").startswith("forward "):
        yield off("bridge table", "chain egress_bridge does not hang in the bridge's forward hook",
                  "frames do not meet it", "start egressguard, which puts it right")
    names = {link.name for link in seen.links if link.kind == "bridge"}
    for bridge in seen.settings.bridge:
        ports = [link.name for link in seen.links if link.master == bridge.name]
        if bridge.name not in names:
            yield weak("bridge", f"{bridge.name} is no bridge of this machine",
                       "its machines are judged nowhere here", "correct the name, or make the bridge")
        elif set(ports) <= bridge.machine_ports(frozenset(ports)):
            yield note("bridge", f"every port of {bridge.name} is a machine's",
                       "so nothing leads outside by it",
                       "nothing, unless one of them is an uplink: then take it out of bridge.ports")


def last_line(seen: Surroundings) -> Iterator[Finding]:
    """It needs its kernel, its interfaces, and that every permitted packet meets the rules that mark it."""
    names = seen.settings.last_line.interfaces
    if not names:
        return
    if seen.kernel < EGRESS_HOOK:
        yield weak("last line", "this kernel has no egress hook", "so there is no last line",
                   "upgrade to Linux 5.16 or later")
    yield from _where_it_stands(seen, names)
    for link in seen.links:
        if link.name not in names and link.default_route and not link.master:
            yield note("last line", f"a default route leaves by {link.name}, where it does not stand",
                       "only the rules themselves guard that way", "add it to last_line.interfaces")
    if seen.foreign.flowtables:
        yield weak("last line", "there is a flowtable",
                   "the offloaded packets of permitted senders carry no mark, so the last line drops them",
                   "except TCP port 25 from the rule with `flow add`")


def _where_it_stands(seen: Surroundings, names: tuple[str, ...]) -> Iterator[Finding]:
    existing = {link.name for link in seen.links}
    for name in names:
        if name not in existing:
            yield weak("last line", f"{name} does not exist", "the last line is loaded when it appears",
                       "nothing, if it comes and goes; otherwise correct last_line.interfaces")
        elif name not in seen.last_line_on:
            yield weak("last line", f"it does not stand on {name}",
                       "what leads around the rules leaves by it", "start egressguard")


def table_owner(seen: Surroundings) -> Iterator[Finding]:
    """Whether the tables can have the owner that the configuration asks for."""
    if seen.settings.table_owner and seen.no_owner:
        yield weak("table owner", f"table_owner is not possible here: {seen.no_owner}",
                   "another tool can flush or edit the table; that is put right at once, not prevented",
                   "take a newer kernel and nftables, or table_owner out of the configuration")
