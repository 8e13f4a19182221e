"""Every boot of a router under attack: whatever is killed, delayed or fails, no SYN to port 25 gets out.

A web server tries port 25 all the time in both families, and another port as well, which must pass: so the way
was open while nothing leaked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from random import Random

import pytest

from lab.crossroads import Crossroads
from lab.debian import Disk
from lab.namespaces import wait_until
from lab.topology import OUTSIDE, WAN, WEB1
from tests.machine.test_packages import apt, enforce, status

FAULTS = {
    "killed": "ExecStartPre=/bin/sh -c 'kill -9 $$$$'",
    "failed": "ExecStartPre=/bin/false",
    "delayed": "ExecStartPre=/bin/sleep 3",
    "hung": "ExecStartPre=/bin/sleep infinity\nTimeoutStartSec=2",
}
OURS = ("egressguard-rules", "egressguard-fallback", "egressguard")
UNITS = (*OURS, "nftables")
NETWORKS = ("ifupdown", "networkd")
NFTABLES = "#!/usr/sbin/nft -f\nflush ruleset\ntable inet site {\n}\n"
LAST_GOOD = "/var/lib/egressguard/last-good.nft"
RULES = "/usr/lib/egressguard/python/egressguard/rules/egressguard.nft"
DROP_INS = [f"/etc/systemd/system/{unit}.service.d/egressguard.conf"  # instead of the package's
            for unit in ("nftables", "networking", "systemd-networkd", "NetworkManager")]
CONFIG = "/etc/egressguard/egressguard.toml"


@pytest.fixture(scope="session")
def configured(installed: Disk) -> Iterator[Disk]:
    """Initialised, in mode enforce, switched off."""
    with Disk(installed.written, *installed.layers) as disk:
        with Crossroads(disk, per_second=0) as here:
            here.machine.wait_until_booted()
            here.machine.run("egressguard", "init", "--yes")
            enforce(here.machine)
            here.machine.run("systemctl", "enable", "nftables")
            here.machine.power_off()
        disk.write("/etc/nftables.conf", NFTABLES, 0o755)
        yield disk


@pytest.fixture
def disk(configured: Disk) -> Iterator[Disk]:
    with Disk(configured.written, *configured.layers) as own:
        yield own


@pytest.fixture(scope="session")
def managed(configured: Disk) -> Iterator[Disk]:
    """The same with Debian's NetworkManager, which alone brings the interfaces up."""
    with Disk(configured.written, *configured.layers) as disk:
        with Crossroads(disk, per_second=0) as here:
            here.machine.wait_until_booted()
            with here.machine.internet():
                here.machine.run("apt-get", "-qq", "update")
                apt(here.machine, "--no-install-recommends", "install", "network-manager")
            here.machine.power_off()
        use_network_manager(disk)
        yield disk


@dataclass(frozen=True)
class Outcome:
    leaked: int
    tables: str


def boot(disk: Disk) -> Outcome:
    """Boots under attack, and shuts down under attack; what got out in all that time."""
    with Crossroads(disk) as here:
        here.machine.wait_until_booted()
        here.wait_for_traffic()
        tables = here.machine.run("nft", "list", "tables")
        here.machine.power_off()
        return Outcome(here.leaked(), tables)


def disturb(disk: Disk, unit: str, fault: str) -> None:
    disk.write(f"/etc/systemd/system/{unit}.service.d/fault.conf", f"[Service]\n{FAULTS[fault]}\n")


def mask(disk: Disk, *units: str) -> None:
    for unit in units:
        path = disk.written / f"etc/systemd/system/{unit}.service"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/null")


def without_drop_ins(disk: Disk) -> None:
    for path in DROP_INS:
        disk.write(path, "")


def use(network: str, disk: Disk) -> None:
    """What brings the interfaces up: ifupdown, as it is, or systemd-networkd."""
    if network == "networkd":
        use_networkd(disk)


def use_networkd(disk: Disk) -> None:
    mask(disk, "networking")
    disk.write("/etc/systemd/network/wan.network", f"[Match]\nName={WAN}\n[Network]\n"
               f"Address={OUTSIDE.ipv4_gateway}/{OUTSIDE.ipv4_length}\nAddress={OUTSIDE.ipv6_gateway}/64\n"
               f"Gateway={OUTSIDE.ipv4}\nGateway={OUTSIDE.ipv6}\n")
    disk.write("/etc/systemd/network/web.network", f"[Match]\nName={WEB1.segment}\n[Network]\n"
               f"Address={WEB1.ipv4_gateway}/24\nAddress={WEB1.ipv6_gateway}/64\nIPForward=yes\n")
    wants = disk.written / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")


def use_network_manager(disk: Disk) -> None:
    """Interfaces that ifupdown knows are none of its."""
    mask(disk, "networking")
    disk.write("/etc/network/interfaces", "auto lo\niface lo inet loopback\n")
    ways = {WAN: (f"{OUTSIDE.ipv4_gateway}/{OUTSIDE.ipv4_length},{OUTSIDE.ipv4}", f"{OUTSIDE.ipv6_gateway}/64,{OUTSIDE.ipv6}"),
            WEB1.segment: (f"{WEB1.ipv4_gateway}/{WEB1.ipv4_length}", f"{WEB1.ipv6_gateway}/64")}
    for name, (four, six) in ways.items():
        disk.write(f"/etc/NetworkManager/system-connections/{name}.nmconnection",
                   f"[connection]\nid={name}\ntype=ethernet\ninterface-name={name}\n"
                   f"[ipv4]\nmethod=manual\naddress1={four}\n[ipv6]\nmethod=manual\naddress1={six}\n", 0o600)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_undisturbed_boot_lets_nothing_out(disk: Disk, network: str) -> None:
    use(network, disk)
    outcome = boot(disk)
    assert outcome.leaked == 0
    assert outcome.tables.splitlines() == ["table inet site", "table inet egressguard"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("unit", UNITS)
def test_no_fault_of_a_unit_lets_anything_out(disk: Disk, unit: str, fault: str, network: str) -> None:
    use(network, disk)
    disturb(disk, unit, fault)
    assert boot(disk).leaked == 0


Pair = tuple[tuple[str, str], tuple[str, str]]
ALL_PAIRS: list[Pair] = [((a, fault), (b, other)) for a, b in combinations(UNITS, 2)
                         for fault, other in product(FAULTS, repeat=2)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every second pair of faults with one network and the others with the other one; with --full all of them."""
    if "pair" in metafunc.fixturenames:
        full = bool(metafunc.config.getoption("--full"))
        sample = ALL_PAIRS if full else Random(6).sample(ALL_PAIRS, 16)
        cases = [(pair, network) for n, pair in enumerate(sample) for m, network in enumerate(NETWORKS)
                 if full or n % 2 == m]
        metafunc.parametrize(("pair", "network"), cases, ids=lambda value: "-".join(map(":".join, value))
                             if isinstance(value, tuple) else value)


def test_no_two_faults_together_let_anything_out(disk: Disk, pair: Pair, network: str) -> None:
    use(network, disk)
    for unit, fault in pair:
        disturb(disk, unit, fault)
    assert boot(disk).leaked == 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("faults", [("killed", "killed"), ("failed", "hung"), ("hung", "delayed")])
def test_without_nftables_both_units_that_load_may_fail(disk: Disk, network: str, faults: tuple[str, str]) -> None:
    """As Debian installs it, nftables.service is off; then whoever brings the network up is the last to look."""
    use(network, disk)
    mask(disk, "nftables")
    disturb(disk, "egressguard", "delayed")
    for unit, fault in zip(OURS[:2], faults, strict=True):
        disturb(disk, unit, fault)
    assert boot(disk).leaked == 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("unit", ["the network", "systemd-sysctl", "systemd-tmpfiles-setup", "dbus"])
def test_no_delay_of_the_system_lets_anything_out(disk: Disk, unit: str, network: str) -> None:
    use(network, disk)
    manager = {"ifupdown": "networking", "networkd": "systemd-networkd"}[network]
    disturb(disk, manager if unit == "the network" else unit, "delayed")
    assert boot(disk).leaked == 0


@pytest.mark.parametrize("content", ["", "table inet egressguard {\n", "# empty\n# complete\n"])
def test_a_last_good_file_that_is_not_good_lets_nothing_out(disk: Disk, content: str) -> None:
    disk.write(LAST_GOOD, content)
    assert boot(disk).leaked == 0


def test_without_a_last_good_file_the_rules_alone_let_nothing_out(disk: Disk) -> None:
    (disk.written / LAST_GOOD.lstrip("/")).parent.mkdir(parents=True)
    disk.write("/etc/tmpfiles.d/gone.conf", f"r! {LAST_GOOD}\n")
    disturb(disk, "egressguard", "failed")
    assert boot(disk).leaked == 0


def test_when_no_file_loads_the_fallback_shuts_port_25(disk: Disk) -> None:
    for path in (LAST_GOOD, RULES):
        disk.write(path, "this is no nft\n")
    outcome = boot(disk)
    assert outcome.leaked == 0
    assert outcome.tables.splitlines() == ["table inet site", "table inet egressguard_fallback"]


def test_a_configuration_that_is_wrong_or_gone_opens_nothing(disk: Disk) -> None:
    disk.write(CONFIG, "mode = enforce without quotes\n")
    outcome = boot(disk)
    assert (outcome.leaked, "table inet egressguard" in outcome.tables) == (0, True)


def test_the_daemon_takes_over_from_the_fallback(disk: Disk) -> None:
    disturb(disk, "egressguard-rules", "killed")
    with Crossroads(disk) as here:
        here.machine.wait_until_booted()
        wait_until(lambda: status(here.machine)[1]["mode"] == "enforce", "the daemon's rules")
        assert "fallback" not in here.machine.run("nft", "list", "tables")
        here.wait_for_traffic()
        assert here.leaked() == 0


@pytest.mark.parametrize("order", ["stop nftables", "restart nftables", "reload nftables",
                                   "stop egressguard egressguard-rules egressguard-fallback",
                                   "restart egressguard egressguard-rules egressguard-fallback"])
def test_no_order_to_systemd_lets_anything_out(disk: Disk, order: str) -> None:
    with Crossroads(disk) as here:
        here.machine.wait_until_booted()
        here.wait_for_traffic()
        here.machine.run("systemctl", *order.split())
        here.wait_for_traffic(400)
        assert here.leaked() == 0
        assert "table inet egressguard" in here.machine.run("nft", "list", "tables")


def test_a_killed_daemon_comes_back_and_nothing_gets_out(disk: Disk) -> None:
    with Crossroads(disk) as here:
        here.machine.wait_until_booted()
        for _ in range(3):
            here.machine.run("systemctl", "kill", "-s", "SIGKILL", "egressguard")
            here.wait_for_traffic()
            wait_until(lambda: status(here.machine)[1]["daemon"]["runs"], "the daemon again")
        assert here.leaked() == 0


def test_mutant_without_our_units_it_leaks(disk: Disk) -> None:
    """The sniffer of all these tests sees a leak when there is one."""
    mask(disk, *OURS)
    without_drop_ins(disk)
    assert boot(disk).leaked > 0


def test_mutant_without_the_fallback_a_killed_rules_unit_leaks(disk: Disk) -> None:
    mask(disk, "egressguard-fallback")
    disturb(disk, "egressguard-rules", "killed")
    disturb(disk, "egressguard", "delayed")
    without_drop_ins(disk)
    assert boot(disk).leaked > 0


def test_mutant_rules_that_do_not_wait_in_front_of_the_network_leak(disk: Disk, configured: Disk) -> None:
    mask(disk, "egressguard-fallback")
    disturb(disk, "egressguard", "delayed")
    unit = next(layer / "usr/lib/systemd/system/egressguard-rules.service" for layer in configured.layers
                if (layer / "usr/lib/systemd/system/egressguard-rules.service").exists())
    text = unit.read_text().replace("Before=network-pre.target egressguard-fallback.service\n", "")
    assert text != unit.read_text()
    disk.write("/etc/systemd/system/egressguard-rules.service", text)
    disturb(disk, "egressguard-rules", "delayed")
    without_drop_ins(disk)
    assert boot(disk).leaked > 0


def test_mutant_without_the_drop_in_a_stop_of_nftables_leaks(disk: Disk) -> None:
    mask(disk, "egressguard")
    without_drop_ins(disk)
    with Crossroads(disk) as here:
        here.machine.wait_until_booted()
        here.machine.run("systemctl", "stop", "nftables")
        here.wait_for_traffic()
        assert here.leaked() > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_mutant_without_the_drop_ins_both_units_that_load_may_not_fail(disk: Disk, network: str) -> None:
    use(network, disk)
    mask(disk, "nftables")
    disturb(disk, "egressguard", "delayed")
    for unit in OURS[:2]:
        disturb(disk, unit, "killed")
    without_drop_ins(disk)
    assert boot(disk).leaked > 0


@pytest.mark.parametrize("faults", [{}, {"egressguard-rules": "killed", "egressguard-fallback": "hung"},
                                    {"egressguard-rules": "failed", "egressguard-fallback": "killed"},
                                    {"NetworkManager": "delayed", "egressguard-rules": "killed"}], ids=str)
def test_network_manager_lets_nothing_out_either(managed: Disk, faults: dict[str, str]) -> None:
    outcome = boot_managed(managed, faults)
    assert outcome.leaked == 0
    assert "table inet egressguard" in outcome.tables


def test_mutant_without_the_drop_in_of_network_manager_it_leaks(managed: Disk) -> None:
    with Disk(managed.written, *managed.layers) as disk:
        without_drop_ins(disk)
        assert boot_managed(disk, {"egressguard-rules": "killed", "egressguard-fallback": "killed"}).leaked > 0


def boot_managed(below: Disk, faults: dict[str, str]) -> Outcome:
    """One boot with NetworkManager and, as Debian installs it, without nftables.service; the daemon comes late."""
    with Disk(below.written, *below.layers) as disk:
        mask(disk, "nftables")
        for unit, fault in {"egressguard": "delayed", **faults}.items():
            disturb(disk, unit, fault)
        return boot(disk)
