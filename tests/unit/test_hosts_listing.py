"""`hosts` and `status --json` of very many hosts."""

import time
from dataclasses import replace
from ipaddress import ip_address

from egressguard.cli.hosts import as_json
from egressguard.core.hosts import Host, host_of
from egressguard.core.settings import Machine
from egressguard.core.standings import Standing
from egressguard.core.verdict import State
from tests.unit.test_health import GOOD, SETTINGS

MANY = 3000


def test_each_host_more_costs_as_much_as_the_one_before() -> None:
    """With the names of the inventory looked up anew for each, a hundred thousand hosts took hours."""
    machines = tuple(Machine(f"web{n}", (ip_address(f"2001:db8:{n:x}::1"),)) for n in range(1, MANY))
    seen = replace(GOOD, settings=replace(SETTINGS, host=machines))
    listed = [Standing(host_of(m.addresses[0]), (), 0, 0, State.CLEAN, None, None) for m in machines]
    began_s = time.process_time()
    names = seen.settings.names()
    once_s = time.process_time() - began_s
    found = as_json(seen, listed)
    assert time.process_time() - began_s < MANY / 4 * once_s
    assert found["2001:db8:1::/64"]["name"] == names[Host("2001:db8:1::/64")] == "web1"
