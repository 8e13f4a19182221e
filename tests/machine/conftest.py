"""Machines with real systemd, freshly installed: `script/machine-test DIST`. Not part of a plain run, since a
debootstrap and packages from the mirrors take minutes."""

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.crossroads import prepare
from lab.debian import PROJECT, Disk, Machine, image
from lab.namespaces import Namespace

# Under dist/, which git ignores, or the second sdist would hold what the first build made.
BUILD = "cd /src && script/package dist/{folder} >&2 && cd dist/{folder} && sha256sum *"


@dataclass(frozen=True)
class Packages:
    """The built files of two revisions, and what two builds of the first one hashed to."""

    folder: Path
    hashes: tuple[str, str]

    def deb(self, name: str, revision: int = 1) -> Path:
        found = list((self.folder / f"r{revision}").glob(f"{name}_*-{revision}~*.deb"))
        assert len(found) == 1, found
        return found[0]


@pytest.fixture(scope="session")
def distribution(pytestconfig: pytest.Config, root: None) -> str:
    return str(pytestconfig.getoption("--machine"))


@pytest.fixture(scope="session")
def packages(distribution: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Built on a machine that has nothing but what Debian installs, with what script/package asks for; or those that
    `--packages` names, built before.
    """
    if built := pytestconfig.getoption("--packages"):
        return Packages(Path(built), ("", ""))
    folder = tmp_path_factory.mktemp("packages")
    with Disk(image(distribution)) as disk, Namespace("builder") as network, Machine(disk, network) as machine:
        source = disk.written / "src"
        _copy_checkout(source)
        machine.wait_until_booted()
        with machine.internet():
            first = machine.run("sh", "-c", BUILD.format(folder="r1"), timeout_s=1200)
            again = machine.run("sh", "-c", BUILD.format(folder="again"), timeout_s=1200)
            machine.run("sh", "-c", BUILD.format(folder="r2"), timeout_s=1200, PACKAGE_REVISION="2")
        for name in ("r1", "r2"):
            subprocess.run(["cp", "-r", source / "dist" / name, folder], check=True)
    return Packages(folder, (first, again))


@pytest.fixture(scope="session")
def installed(distribution: str, packages: Packages) -> Iterator[Disk]:
    """The disk of a machine on which `apt install ./egressguard_*.deb` was run, switched off."""
    with Disk(image(distribution)) as disk:
        prepare(disk)
        with Namespace("installer") as network, Machine(disk, network) as machine:
            machine.wait_until_booted()
            with machine.internet():
                machine.copy_in(packages.deb("egressguard"), "/var/tmp")
                machine.run("apt-get", "-qq", "update")
                machine.run("sh", "-c", "apt-get -qq -y --no-install-recommends install /var/tmp/egressguard_*.deb",
                            DEBIAN_FRONTEND="noninteractive")
            machine.power_off()
        yield disk


def _copy_checkout(target: Path) -> None:
    """What git knows and what it would, with its history's head for the time of the build."""
    target.mkdir()
    listed = subprocess.run(["git", "ls-files", "-co", "-z", "--exclude-standard"], cwd=PROJECT,
                            capture_output=True, check=True).stdout
    names = b"\0".join(name for name in listed.split(b"\0") if name and (PROJECT / name.decode()).exists())
    with tempfile.TemporaryFile() as archive:
        subprocess.run(["tar", "-C", PROJECT, "--null", "-T", "-", "-cf", "-"], input=names, stdout=archive, check=True)
        archive.seek(0)
        subprocess.run(["tar", "-C", target, "-xf", "-"], stdin=archive, check=True)
    subprocess.run(["chown", "-R", "0:0", target], check=True)
