"""Does the rule stand on the path? Pure findings from what lies around it (docs/doctor.md lists them all).

Every finding says what was found, why it matters, and what would be right.
"""

from collections.abc import Iterator

from egressguard.core.canary import Fate
from egressguard.core.finding import Finding, Severity, note, off, weak
from egressguard.core.foreign_diagnosis import other_tables_rules
from egressguard.core.inside_diagnosis import inside_interfaces, inside_routes, senders_places
from egressguard.core.path_diagnosis import bridge_table, last_line, table_owner
from egressguard.core.surroundings import PASSING, TUNNELS, Link, Surroundings

LOCAL_KINDS = ("bridge", "dummy", "vrf")  # an address on one of these is no way out
FULL = 0.8


def diagnose(seen: Surroundings) -> list[Finding]:
    """All findings, worst first."""
    checks = (_table, table_owner, bridge_table, last_line, _canary, _forwarding, inside_routes,
              inside_interfaces, senders_places, other_tables_rules, _flowtables, _bridges, _inside_links,
              _programs, _sysctls, _conntrack, _legacy, _ways_out, _containers)
    found = [finding for check in checks for finding in check(seen)]
    return sorted(found, key=lambda finding: -finding.severity)


def verdict(found: list[Finding]) -> Severity:
    """The worst of `found`."""
    return max((finding.severity for finding in found), default=Severity.NOTE)


def _table(seen: Surroundings) -> Iterator[Finding]:
    if seen.own_hooks is None:
        yield off("table", "the table is not in the kernel", "nothing is refused", "start egressguard")
    elif seen.dormant:
        yield off("table", "the table is dormant", "its chains are off the path", "start egressguard")
    elif not seen.own_hooks.get("egress_forward", "").startswith("forward "):
        yield off("table", "chain egress_forward does not hang in the forward hook",
                   "forwarded packets do not meet it", "start egressguard, which puts it right")


def _canary(seen: Surroundings) -> Iterator[Finding]:
    if seen.canary is None:
        return
    for flight in seen.canary.having(Fate.LEAKED):
        yield off("canary", flight.text, "what the canary can, every host can", "look at the findings below")
    for flight in seen.canary.having(Fate.UNCOUNTED):
        yield weak("canary", flight.text, "attempts are not counted, so nobody is judged",
                    "find what stops port 25 before chain egress_forward, and remove it")
    for flight in seen.canary.having(Fate.UNABLE):
        yield weak("canary", flight.text, "so nothing proves that the rules stand on the path",
                    "put right what the text says")
    for flight in seen.canary.having(Fate.GROUNDED):
        if flight.family in _forwarded(seen):
            yield weak("canary", f"not enforcing: {flight.text}", "a SYN would have got out",
                        "run doctor again when the rules enforce")


def _forwarded(seen: Surroundings) -> set[int]:
    keys = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
    return {family for family, key in keys.items() if seen.number(key)}


def _forwarding(seen: Surroundings) -> Iterator[Finding]:
    families = _forwarded(seen)
    if not families and not seen.settings.own.guard and not seen.settings.bridge:
        yield off("forwarding", "this machine forwards neither IPv4 nor IPv6",
                   "hosts reach the outside by another router, if at all; these rules see nothing of it",
                   "run egressguard where packets are forwarded, or guard this machine's own with own.guard")
        return
    for family in ({4, 6} - families) if families else ():
        yield note("forwarding", f"IPv{family} is not forwarded", "so its rules have nothing to judge here",
                    f"make sure that no other router forwards IPv{family} for these hosts")


def _flowtables(seen: Surroundings) -> Iterator[Finding]:
    for place, devices in seen.foreign.flowtables:
        on = f" on {', '.join(devices)}" if devices else ""
        yield weak("flowtable", f"{place}{on}", "offloaded connections pass beside the forward hook: a "
                    "quarantine or the end of an exception does not reach them",
                    "except TCP port 25 from the rule with `flow add`, or remove the flowtable")


def _bridges(seen: Surroundings) -> Iterator[Finding]:
    inside = {link.name for link in seen.inside()}
    judged = {bridge.name for bridge in seen.settings.bridge}
    bridges = [link for link in seen.links if link.kind == "bridge" and link.name not in judged]
    for bridge in bridges:
        ports = [link for link in seen.links if link.master == bridge.name]
        for port in ports:
            if port.name in inside:
                yield weak("bridge port inside", f"{port.name} is configured as inside, and is a port of "
                            f"{bridge.name}", "rules see packets come in by the bridge, never by its port; "
                            "what depends on the interface (senders, exceptions) does not match",
                            f"name {bridge.name} in [[inside]] instead")
        if bridge.name in inside | {p.master for p in ports if p.name in inside}:
            yield from _bridged(seen, bridge, ports)


def _bridged(seen: Surroundings, bridge: Link, ports: list[Link]) -> Iterator[Finding]:
    """Machines on one bridge that has an uplink reach the outside without being routed."""
    uplinks = [port.name for port in ports if port.kind not in ("veth", "tun", "macvtap")]
    for version, tables in ((4, "iptables"), (6, "ip6tables")):
        if len(ports) > 1 and uplinks and not seen.number(f"bridge/bridge-nf-call-{tables}"):
            yield weak("bridged", f"{bridge.name} bridges {', '.join(p.name for p in ports)}, and "
                        f"bridge-nf-call-{tables} is not 1", f"IPv{version} between its ports, of which "
                        f"{', '.join(uplinks)} may lead outside, does not meet the forward hook",
                        f"name it in [[bridge]], or set net.bridge.bridge-nf-call-{tables}=1 (module "
                        "br_netfilter)")


def _inside_links(seen: Surroundings) -> Iterator[Finding]:
    for link in seen.inside():
        if link.kind in TUNNELS:
            yield weak("tunnel inside", f"inside interface {link.name} is a tunnel ({link.kind})",
                        "what leaves by it is not looked at, wherever its other end is",
                        "keep it in [[inside]] only if nothing but hosts of yours lives at its other end")
    for link in seen.links:
        if link.kind in PASSING:
            yield weak("beside the stack", f"{link.name} is a {link.kind} interface",
                        "its packets can pass between it and its parent without being forwarded here",
                        "route what hangs on it through a plain interface, or filter it there")


def _programs(seen: Surroundings) -> Iterator[Finding]:
    for link in seen.inside():
        if link.xdp:
            yield weak("xdp", f"an XDP program is attached to {link.name}",
                        "it can send packets out before any rule sees them", "make sure that it only drops")
        if link.filtered:
            yield weak("tc", f"{link.name} has a clsact or ingress queueing discipline",
                        "its filters can redirect packets before any rule sees them",
                        f"read `tc filter show dev {link.name} ingress`; remove what redirects")


def _sysctls(seen: Surroundings) -> Iterator[Finding]:
    for name in (link.name for link in seen.inside()):
        def both(family: int, key: str, name: str = name) -> tuple[int, int]:
            return (seen.number(f"ipv{family}/conf/all/{key}"), seen.number(f"ipv{family}/conf/{name}/{key}"))

        if max(both(4, "rp_filter")) == 0:
            yield note("rp_filter", f"rp_filter is off on {name}", "the rules check the sources of blocked "
                        "packets themselves; other traffic with forged sources passes",
                        f"set net.ipv4.conf.{name}.rp_filter=1, unless routes are asymmetric")
        for family in (4, 6):
            if min(both(family, "accept_source_route")) > 0:
                yield weak("source routing", f"IPv{family} source routes are accepted on {name}",
                            "a sender of such packets chooses their way, and with it the interface",
                            f"set net.ipv{family}.conf.all.accept_source_route=0")
        if min(both(6, "seg6_enabled")) > 0:
            yield weak("source routing", f"segment routing (SRv6) is accepted on {name}",
                        "its header hides where a packet goes in the end",
                        "set net.ipv6.conf.all.seg6_enabled=0")


def _conntrack(seen: Surroundings) -> Iterator[Finding]:
    limit = seen.number("netfilter/nf_conntrack_max")
    if not limit:
        yield weak("conntrack", "connection tracking is not loaded",
                    "fragments are not put together, so they are refused, those of permitted senders as well",
                    "load the module nf_conntrack")
    elif seen.number("netfilter/nf_conntrack_count") > FULL * limit:
        yield weak("conntrack", "the connection table is full to "
                    f"{seen.sysctl['netfilter/nf_conntrack_count']} of {limit}",
                    "when it is full, the kernel drops new connections, permitted ones too",
                    "raise net.netfilter.nf_conntrack_max")


def _legacy(seen: Surroundings) -> Iterator[Finding]:
    if seen.legacy:
        # A filter table can only stop packets; the others can lead them elsewhere.
        make = note if all(name.endswith((" filter", " security")) for name in seen.legacy) else weak
        yield make("iptables-legacy", f"iptables-legacy has tables: {', '.join(seen.legacy)}",
                    "doctor cannot read their rules",
                    "read `iptables-legacy-save` for port 25, REDIRECT, DNAT")


def _ways_out(seen: Surroundings) -> Iterator[Finding]:
    for link in seen.outside():
        if link.kind in TUNNELS and link.up:
            yield note("tunnel", f"{link.name} is a tunnel ({link.kind})", "one more way out: it is not "
                        "inside, so port 25 is refused there as well",
                        "nothing; hosts must not be able to make their own")
    uplinks = [link for link in seen.outside() if link.up and not link.master and link.kind not in TUNNELS
               and (link.default_route or (link.addresses and link.kind not in LOCAL_KINDS))]
    for link in uplinks if len(uplinks) > 1 else []:
        yield note("uplink", f"{link.name} is an uplink, or an interface that nobody has named",
                    "it is not inside, so port 25 is refused there as well",
                    f"nothing; if hosts of yours live behind {link.name}, name it in [[inside]]")


def _containers(seen: Surroundings) -> Iterator[Finding]:
    if not any(rule.verb == "masquerade" for rule in seen.foreign.rules):
        return
    for link in seen.outside():
        if link.kind == "bridge" and link.addresses:
            yield note("containers", f"{link.name} ({', '.join(link.addresses)}) looks like a network of "
                        "containers or virtual machines behind masquerade", "they are forwarded, so they are "
                        f"blocked, and counted for {link.name}, but not judged",
                        f"name {link.name} in [[inside]] to have each judged under its own address; give "
                        "those that may send mail a [[sender]]")
