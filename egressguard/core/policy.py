"""What the kernel's sets should hold: the configuration, translated and nothing else."""

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from egressguard.core.hosts import IPV6_PREFIX_LENGTH, Address
from egressguard.core.ruleset import ALL_FAMILIES, REDIRECT, TUNNEL_PROTOCOLS, Element, Sets
from egressguard.core.settings import SMTP_PORT, Group, Mode, Sender, Settings
from egressguard.core.shards import spread

NO_FAMILY: frozenset[Element] = frozenset()
FAMILIES = {4: "ipv4", 6: "ipv6"}


def desired(settings: Settings, uids: Iterable[int] = (), cgroups: Iterable[str] = ()) -> Sets:
    """The elements of every configured set of rules/egressguard.nft; `uids` and `cgroups` are those of
    `own.users` and `own.cgroups`.
    """
    return {
        "inside_if": frozenset((name,) for inside in settings.inside for name in inside.interfaces),
        "shared_if": _shared(settings),
        "bridged_if": frozenset((bridge.name,) for bridge in settings.bridge),
        "tunnel_protocols": TUNNEL_PROTOCOLS,
        "observed_family": ALL_FAMILIES if settings.mode == "observe" else NO_FAMILY,
        "answer_drop": ALL_FAMILIES if settings.answer == "drop" else NO_FAMILY,
        "answer_prohibit": ALL_FAMILIES if settings.answer == "prohibit" else NO_FAMILY,
        **port_sets(settings), **_sharded(settings), **group_sets(settings),
        **count_only_sets(settings),
        **sender_sets(settings, lambda _, address: settings.interfaces_of(address)),
        **_own(settings, uids, cgroups), **redirect_sets(settings),
    }


def port_sets(settings: Settings) -> Sets:
    """The ports that are looked at, and those that are shut for everybody."""
    return {
        "smtp_ports": frozenset((str(port),) for port in _all_ports(settings)),
        "blocked_ports": frozenset((str(port),) for port in settings.ports),
    }


def port_bits(settings: Settings) -> tuple[int, int]:
    """A mask of the bits in which all ports that are looked at agree, and their values: a port that differs
    in one of them is none of these.
    """
    first, *others = sorted(_all_ports(settings))
    mask = 0xFFFF
    for port in others:
        mask &= ~(first ^ port)
    return mask, first & mask


def inventory(settings: Settings) -> list[Address]:
    """The hosts whose counters exist before their first attempt, under the addresses that rules/ counts."""
    known = [_masked(address) for machine in settings.host for address in machine.addresses]
    if settings.canary.enabled:  # no flood of strangers may take its counter
        known += map(_masked, settings.canary.addresses)
    return known


def inventory_sets(settings: Settings) -> Sets:
    """The inventory in one set a family."""
    known = inventory(settings)
    return {f"known{version}": frozenset((str(a),) for a in known if a.version == version)
            for version in (4, 6)}


def _sharded(settings: Settings) -> Sets:
    return {name: frozenset(shard) for name, shard in spread(inventory(settings)).items()}


def sender_sets(settings: Settings, places: Callable[[Sender, Address], Iterable[str]]) -> Sets:
    """The senders' addresses, each behind every interface or port of `places`."""
    allowed: dict[str, set[Element]] = {"allow4": set(), "allow6": set(), "allow_mac4": set(),
                                        "allow_mac6": set()}
    for sender in settings.sender:
        for address in sender.addresses:
            name = f"allow{'_mac' if sender.mac else ''}{address.version}"
            for place in places(sender, address):
                allowed[name].add((place, str(address), *([sender.mac] if sender.mac else [])))
    return {name: frozenset(elements) for name, elements in allowed.items()}


def _shared(settings: Settings) -> frozenset[Element]:
    """The interfaces of each [[inside]] with several: behind which of them a sender lives the route tells."""
    return frozenset((name,) for inside in settings.inside
                     if len(inside.interfaces) > 1 and not inside.asymmetric for name in inside.interfaces)


def group_sets(settings: Settings, families: Mapping[int, str] = FAMILIES) -> Sets:
    """Port and network of the groups that differ from the site, and the networks alone of those whose mode
    does, for packets without a readable port; `families` is how the table calls these.
    """
    sets: dict[str, set[Element]] = {name: set() for v in (4, 6) for name in (
        f"group_enforce{v}", f"group_observe{v}", f"enforced_net{v}", f"observed_net{v}")}
    for group in settings.group:
        for network in group.networks if group.mode else ():
            sets[f"{group.mode}d_net{network.version}"].add((families[network.version], str(network)))
        for port, mode in _group_ports(group, settings.mode):
            for network in group.networks:
                sets[f"group_{mode}{network.version}"].add((str(port), str(network)))
    return {name: frozenset(elements) for name, elements in sets.items()}


def _group_ports(group: Group, site: Mode) -> list[tuple[int, Mode]]:
    """Each port that concerns the group and what is done there; mode observe blocks none of them."""
    mode = group.mode or site
    ports: list[tuple[int, Mode]] = [(port, mode) for port in group.also_block]
    ports += [(port, "observe") for port in group.also_count]
    return ports + ([(SMTP_PORT, mode)] if group.mode else [])


def count_only_sets(settings: Settings) -> Sets:
    """Port and network of what is only counted, and a counter for each host of the inventory there."""
    sets: dict[str, set[Element]] = {
        f"{name}{v}": set() for name in ("count_only", "counted") for v in (4, 6)}
    named = [(port, network) for group in settings.group for port in group.also_count
             for network in group.networks]
    for port, network in named:
        sets[f"count_only{network.version}"].add((str(port), str(network)))
    networks = {network for _, network in named}
    for address in (address for machine in settings.host for address in machine.addresses if networks):
        if any(address in network for network in networks):
            sets[f"counted{address.version}"].add((str(_masked(address)),))
    return {name: frozenset(elements) for name, elements in sets.items()}


def redirect_sets(settings: Settings) -> Sets:
    """Who is led to the relay or to the listener; empty where nobody is: then the sets are not loaded."""
    sets: dict[str, set[Element]] = {name: set() for name in REDIRECT}
    if not settings.redirects():
        return {name: frozenset() for name in sets}
    for network in (n for inside in settings.inside for n in inside.networks):
        sets[f"inside_net{network.version}"] |= {(str(p), str(network)) for p in settings.ports}
    for relay in settings.redirect.relays:
        sets["relay_if"] |= {(name,) for name in settings.interfaces_of(relay)}
        for led in _led(settings, relay.version):
            sets[f"redirect{relay.version}"] |= {(str(port), led) for port in settings.ports}
    if settings.sinkhole.enabled:
        sets["sinkhole_family"] |= ALL_FAMILIES
    return {name: frozenset(elements) for name, elements in sets.items()}


def _led(settings: Settings, version: int) -> list[str]:
    """The networks whose connections go to the relay."""
    if settings.answer == "redirect":
        return ["0.0.0.0/0" if version == 4 else "::/0"]
    return [str(network) for group in settings.group if group.answer
            for network in group.networks if network.version == version]


def _own(settings: Settings, uids: Iterable[int], cgroups: Iterable[str]) -> Sets:
    own = settings.own
    return {
        "guarded_output": ALL_FAMILIES if own.guard else NO_FAMILY,
        "own_uid": frozenset((str(uid),) for uid in uids) if own.guard else NO_FAMILY,
        "own_cgroup": frozenset((name,) for name in cgroups) if own.guard else NO_FAMILY,
        "own_to4": frozenset((str(a),) for a in own.relays if a.version == 4),
        "own_to6": frozenset((str(a),) for a in own.relays if a.version == 6),
    }


def _all_ports(settings: Settings) -> set[int]:
    return {*settings.ports, *(port for group in settings.group
                               for port in (*group.also_block, *group.also_count))}


def _masked(address: Address) -> Address:
    """The address under which rules/ looks a host up: IPv6 masked to the host's prefix."""
    if isinstance(address, IPv4Address):
        return address
    drop = 128 - IPV6_PREFIX_LENGTH
    return type(address)(int(address) >> drop << drop)


