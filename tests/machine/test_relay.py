"""The relay's package on real systemd, with a real Postfix: whom it limits stays limited through upgrade and reboot."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.crossroads import Crossroads, prepare
from lab.debian import Disk, Machine, image
from lab.namespaces import LabError
from lab.sink import Sink
from lab.topology import SOMEBODY4, WEB1
from tests.machine.conftest import Packages
from tests.machine.test_packages import apt

NAME = "egressguard-milter"
POLICY = "/etc/egressguard/egressguard-milter.toml"
LIMIT = 6
CLIENTS = "198.51.100.0/24"


def deliver(here: Crossroads) -> str:
    """The relay's last reply to one message from the web server, with its code."""
    words = ["swaks", "--server", WEB1.ipv4_gateway, "--helo", "web1.example", "--from", "app@web.example",
             "--to", "somebody@example.org"]
    try:
        talk = here.web.run(words).stdout
    except LabError as error:  # swaks was refused something, and says what
        talk = str(error)
    replies = [line[4:] for line in talk.splitlines() if line[:3] in ("<- ", "<**")]
    return [reply for reply in replies if not reply.startswith("221")][-1]


@pytest.fixture
def relay(distribution: str, packages: Packages) -> Iterator[Disk]:
    """The disk of a relay: the package is installed, `init` was run, Postfix does what it says; switched off."""
    with Disk(image(distribution)) as disk:
        prepare(disk)
        with Crossroads(disk, per_second=0) as here:
            machine = here.machine
            machine.wait_until_booted()
            with machine.internet():
                machine.run("apt-get", "-qq", "update")
                _install_postfix(machine)
                for revision in (1, 2):
                    machine.copy_in(packages.deb(NAME, revision), "/var/tmp")
                apt(machine, "--no-install-recommends", "install", f"/var/tmp/{packages.deb(NAME).name}")
            _connect(machine)
            machine.power_off()
        yield disk


def _install_postfix(machine: Machine) -> None:
    machine.run("sh", "-c", "echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections")
    apt(machine, "--no-install-recommends", "install", "postfix")
    for file in ("main.cf.debian", "master.cf.dist"):
        machine.run("sh", "-c", f"test -e /etc/postfix/{Path(file).stem} || cp /usr/share/postfix/{file} /etc/postfix/{Path(file).stem}")
    machine.run("postconf", "-e", "myhostname = relay.example", "mydestination =", "alias_maps =", "smtpd_peername_lookup = no",
                "smtp_dns_support_level = disabled", "smtp_host_lookup = native", f"default_transport = smtp:[{SOMEBODY4}]")


def _connect(machine: Machine) -> None:
    """Every step that `init` names, one after the other, on a machine that has the relay's package alone."""
    said = machine.run(NAME, "init", "--yes", "--network", CLIENTS, "--messages", str(LIMIT))
    for step in said.partition("next:\n")[2].splitlines():
        if "mta-config" not in step:
            machine.run("sh", "-c", step)
            continue
        machine.run("sh", "-c", f"{step} --only /etc/postfix/main.cf >>/etc/postfix/main.cf")
        machine.run("systemctl", "restart", "postfix")
    # Nobody's count may end while the test goes on.
    machine.run("sed", "-i", "s/^window_s = .*/window_s = 86400.0/", POLICY)
    machine.run("systemctl", "reload", NAME)
    machine.run("systemctl", "enable", "postfix")


def test_from_init_to_purge_whoever_is_near_its_limit_stays_near_it(relay: Disk, packages: Packages, tmp_path: Path) -> None:
    with Crossroads(relay, per_second=0) as here, Sink(here.outside):
        machine = here.machine
        machine.wait_until_booted()
        assert [deliver(here)[:3] for _ in range(3)] == ["250"] * 3
        policy, pid = machine.run("cat", POLICY), machine.run("pidof", "-x", NAME)
        upgrade(machine, changed(packages.deb(NAME, 2), tmp_path))
        assert machine.run("pidof", "-x", NAME) != pid, "the new version runs"
        assert machine.run("cat", POLICY) == policy
        assert [deliver(here)[:3] for _ in range(1)] == ["250"]
        machine.power_off()
    with Crossroads(relay, per_second=0) as here, Sink(here.outside):
        machine = here.machine
        assert machine.wait_until_booted() == "running"
        assert [deliver(here)[:3] for _ in range(LIMIT - 4)] == ["250"] * (LIMIT - 4)
        assert f"is over its limit of {LIMIT} messages" in deliver(here), "through an upgrade and a reboot"
        _remove_and_install_again(here, packages)
        assert f"is over its limit of {LIMIT} messages" in deliver(here), "remove keeps the counts"
        apt(machine, "purge", NAME)
        assert deliver(here).startswith("451"), "Postfix still asks, and nothing passes"
        assert machine.execute("test", "-e", "/etc/egressguard").returncode != 0


def upgrade(machine: Machine, package: Path) -> None:
    """As an upgrade that nobody watches: a question would have no answer."""
    machine.copy_in(package, "/var/tmp")
    machine.run("dpkg", "--install", f"/var/tmp/{package.name}")


def _remove_and_install_again(here: Crossroads, packages: Packages) -> None:
    machine = here.machine
    policy = machine.run("cat", POLICY)
    assert "answers 451 from now on" in apt(machine, "remove", NAME)
    assert deliver(here).startswith("451"), "removed, it opens nothing"
    assert machine.run("cat", POLICY) == policy
    apt(machine, "install", f"/var/tmp/{packages.deb(NAME, 2).name}")
    assert machine.run("cat", POLICY) == policy


def changed(package: Path, folder: Path, *, conffile: bool = False) -> Path:
    """The package of the next version, in which the sample says something else; as the policy itself if `conffile`."""
    tree = folder / package.name.removesuffix(".deb")
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    sample = tree / f"usr/share/{NAME}/{NAME}.toml"
    sample.write_text(sample.read_text() + f"# {tree.name}\n")
    if conffile:
        (tree / "etc/egressguard").mkdir(parents=True)
        shutil.copy(sample, tree / POLICY.lstrip("/"))
        (tree / "DEBIAN/conffiles").write_text(f"{POLICY}\n")
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", lambda line: f"{line[0]}+changed",
                              control.read_text(), flags=re.MULTILINE))
    new = folder / f"{tree.name}.changed.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, new], check=True, capture_output=True)
    return new


def test_mutant_a_policy_that_is_a_conffile_stops_an_upgrade(relay: Disk, packages: Packages, tmp_path: Path) -> None:
    with Crossroads(relay, per_second=0) as here:
        here.machine.wait_until_booted()
        with pytest.raises(LabError, match="conffile"):
            upgrade(here.machine, changed(packages.deb(NAME, 2), tmp_path, conffile=True))


def test_an_upgrade_from_a_policy_that_was_a_conffile_leaves_it_alone(distribution: str, packages: Packages, tmp_path: Path) -> None:
    """As the first packages had it: dpkg forgets the file, asks nothing, lays nothing beside it, and purge still finds it."""
    former = changed(packages.deb(NAME, 1), tmp_path, conffile=True)
    with Disk(image(distribution)) as disk, Crossroads(disk, per_second=0) as here:
        machine = here.machine
        machine.wait_until_booted()
        machine.copy_in(former, "/var/tmp")
        with machine.internet():
            machine.run("apt-get", "-qq", "update")
            apt(machine, "--no-install-recommends", "install", f"/var/tmp/{former.name}")
        assert POLICY in machine.run("dpkg-query", "-W", "-f=${Conffiles}", NAME)
        machine.run("sed", "-i", f"$a # {CLIENTS} is ours", POLICY)
        before = machine.run("sha256sum", POLICY)
        upgrade(machine, packages.deb(NAME, 2))
        assert machine.run("sha256sum", POLICY) == before
        assert machine.run("ls", "/etc/egressguard").split() == [Path(POLICY).name], "no .dpkg-old, no .dpkg-dist"
        machine.run("systemctl", "is-active", NAME)
        upgrade(machine, changed(packages.deb(NAME, 2), tmp_path))
        apt(machine, "remove", NAME)
        assert machine.run("sha256sum", POLICY) == before
        apt(machine, "purge", NAME)
        assert machine.execute("test", "-e", "/etc/egressguard").returncode != 0
