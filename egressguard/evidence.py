"""What is known of a host whose verdict has changed, for whoever is told of it."""

import logging
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from egressguard.core.alerts import Evidence, Tried
from egressguard.core.attempts import Counters, Pair
from egressguard.core.connections import ports_of
from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import Host, host_of
from egressguard.core.inventory import Inventory
from egressguard.core.settings import Settings
from egressguard.core.verdict import Transition
from egressguard.kernel import Kernel

log = logging.getLogger(__name__)


def with_evidence(steps: Sequence[Transition], inventory: Inventory, settings: Settings,
                  counters: Counters[Pair], kernel: Kernel) -> list[tuple[Transition, Evidence]]:
    """Each step with what is known of its host; destinations are gone through once for all of them."""
    if not steps:
        return []
    tried: dict[Host, list[Tried]] = {step.host: [] for step in steps}
    for pair, count in counters.values.items():
        found = tried.get(inventory.machine_of.get(pair[0], pair[0]))
        if found is not None:
            found.append(Tried(pair[1], count, counters.seen_s(pair)))
    ports, macs = tuple(sorted(ports_of(settings))), _attempt_macs(kernel)
    evidence = []
    for step in steps:
        keys = inventory.keys_of(step.host)
        evidence.append((step, Evidence(
            inventory.names.get(step.host, ""), keys, ports, tuple(tried[step.host]),
            tuple(sorted({mac for key in keys for mac in macs.get(key, ())})), settings.mode == "enforce")))
    return evidence


def _attempt_macs(kernel: Kernel) -> Mapping[Host, set[str]]:
    """Read only when somebody is to be told of a host; without them an alert says less."""
    try:
        macs: dict[Host, set[str]] = {}
        for address, found in kernel.attempt_macs().items():
            macs.setdefault(host_of(ip_address(address)), set()).update(found)
        return macs
    except EgressguardError as error:
        log.error("MAC addresses are not known: %s", error)
        return {}
