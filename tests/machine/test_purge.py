"""Purged, a package leaves the disk as it was: all of it is compared, but for what dpkg, apt and systemd write themselves."""

import pytest

from lab.crossroads import Crossroads, prepare
from lab.debian import Disk, Machine, image
from tests.machine.conftest import Packages
from tests.machine.filesystem import differences, everything
from tests.machine.test_packages import apt, enforce

# Whatever makes files, in a life before the purge.
LIVES = {
    "egressguard": ("egressguard init --yes", "egressguard open --for 1m --reason test", "egressguard release --reason test",
                    "egressguard status --json || :", "egressguard doctor || :", "systemctl restart egressguard-rules egressguard",
                    "nft flush ruleset", "sleep 2"),
    "egressguard-milter": ("egressguard-milter init --yes --mta postfix --network 198.51.100.0/24", "systemctl restart egressguard-milter",
                           "egressguard-milter status --json || :", "egressguard-milter reload", "egressguard-milter forgive 198.51.100.1"),
}


@pytest.mark.parametrize("name", LIVES)
def test_purge_leaves_the_machine_as_it_was(name: str, distribution: str, packages: Packages) -> None:
    deb = packages.deb(name)
    with Disk(image(distribution)) as disk:
        prepare(disk)
        with Crossroads(disk, per_second=0) as here:
            machine = here.machine
            machine.wait_until_booted()
            machine.copy_in(deb, "/var/tmp")
            with machine.internet():
                machine.run("apt-get", "-qq", "update")
                apt(machine, "--no-install-recommends", "satisfy", machine.run("dpkg-deb", "-f", f"/var/tmp/{deb.name}", "Depends").strip())
            before = everything(machine)
            apt(machine, "install", f"/var/tmp/{deb.name}")
            assert [path for path in differences(before, everything(machine)) if path.startswith("/usr/bin")] == [f"/usr/bin/{name}"]
            _live(machine, name)
            apt(machine, "purge", name)
            assert differences(before, everything(machine)) == {}
            assert "egressguard" not in machine.run("cat", "/var/lib/dpkg/status")
            _leave_something(machine)
            assert set(differences(before, everything(machine))) == LEFT, "mutant: what is left is found"


def _live(machine: Machine, name: str) -> None:
    for command in LIVES[name]:
        machine.run("sh", "-c", command)
    if name == "egressguard":
        enforce(machine)


LEFT = {"/etc/passwd", "/usr/share/left", "/usr/share/left/behind", "/var/log/journal/egressguard", "/run/left"}


def _leave_something(machine: Machine) -> None:
    machine.run("sh", "-c", "mkdir -p /usr/share/left /var/log/journal; echo >/usr/share/left/behind; echo >>/etc/passwd; "
                            "touch /var/log/journal/egressguard /run/left")
