"""What the Vagrantfile does to its machines, done to bare hosts with wires: the story comes out the same.

The same lab/provision.sh, with the commands of the real units; only systemd itself has a stand-in. web1's sendmail
cannot be installed beside Postfix: tests/relay/test_howto.py runs its configuration.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.installed import ROOT, Installed
from lab.namespaces import Namespace, wait_until
from lab.topology import INSIDE, MAILSERVER, OUTSIDE, RELAY, ROUTER_MAC, WEB2

ROLES = ("outside", "router", "relay", "mailserver", "web2")


class Machines:
    """Wires with the MACs of the topology and arbitrary names, as a provider gives them; nothing else."""

    def __init__(self, folder: Path) -> None:
        (folder / "exchange").mkdir()
        with ExitStack() as stack:
            switch = stack.enter_context(Namespace("switch"))
            for segment in ROUTER_MAC:
                switch.ip(f"link add {segment} type bridge forward_delay 0 mcast_snooping 0", f"link set {segment} up")
            self.installed: dict[str, Installed] = {}
            for role in ROLES:
                namespace = stack.enter_context(Namespace(role))
                for number, (segment, mac) in enumerate(_wires(role)):
                    namespace.link(f"ens{number}", switch, f"{role}-{segment}", mac)
                    switch.ip(f"link set {role}-{segment} master {segment}")
                self.installed[role] = stack.enter_context(Installed(namespace, folder, folder / "exchange"))
            self._stack = stack.pop_all()

    def provision(self, role: str, *steps: str) -> str:
        done = self.installed[role].shell(f"lab/provision.sh {role} {' '.join(steps)}")
        assert done.returncode == 0, f"{role}: {done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, role: str, command: str) -> str:
        return self.installed[role].shell(command).stdout

    def close(self) -> None:
        self._stack.close()


def _wires(role: str) -> list[tuple[str, str]]:
    if role == "router":
        return list(ROUTER_MAC.items())
    return [(place.segment, place.mac) for place in (*INSIDE, OUTSIDE) if place.name == role]


@pytest.fixture
def machines(root: None, tmp_path: Path) -> Iterator[Machines]:
    built = Machines(tmp_path)
    yield built
    built.close()


def test_provisioned_machines_tell_the_story(machines: Machines) -> None:
    for role in ROLES:
        machines.provision(role, "network", *(["postfix"] if role != "router" else []), "service")
    routes = machines.shell("router", "ip -br address; ip route; ip -6 route")
    assert all(name in routes for name in ROUTER_MAC)
    again = machines.provision("router", "network")
    drop_in = "/usr/lib/systemd/system/nftables.service.d/egressguard.conf"
    assert machines.shell("router", f"cat {drop_in}") == (ROOT / "systemd/nftables.conf").read_text(), "as the package has it"
    for network in ("networking", "systemd-networkd", "NetworkManager"):
        drop_in = f"/usr/lib/systemd/system/{network}.service.d/egressguard.conf"
        assert machines.shell("router", f"cat {drop_in}") == (ROOT / "systemd/network.conf").read_text()
    assert "network" in again, "a second time changes nothing and fails at nothing"
    assert machines.shell("router", "ip -br address; ip route; ip -6 route") == routes

    wait_until(lambda: status(machines)["mode"] == "enforce" and "relay" in status(machines)["relays"],
               "an enforcing router that hears the relay over the network")
    assert "2 of 2 messages accepted" in machines.provision("mailserver", "traffic")
    told = machines.provision("web2", "traffic")
    assert "0 of 60 addresses reached directly" in told
    assert "8 of 60 messages accepted; 451" in told, "4 by each address: a tenth of the limit, as the lab has it"

    host = status(machines)["hosts"][WEB2.ipv4]
    assert (host["verdict"], host["tier"], host["attempts"], host["fan_out"]) == ("compromised", "tightened", 60, 60)
    assert {s[1] for s in status(machines)["permitted_senders"]} == {*RELAY.addresses, *MAILSERVER.addresses}


def status(machines: Machines) -> dict[str, Any]:
    return dict(json.loads(machines.shell("router", "egressguard status --json") or '{"mode": "", "relays": {}}'))


def test_a_machine_without_its_wire_says_which_is_missing(machines: Machines) -> None:
    done = machines.installed["relay"].shell("lab/provision.sh mailserver network")
    assert done.returncode != 0
    assert MAILSERVER.mac in done.stderr
