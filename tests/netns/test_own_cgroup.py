"""A host that guards itself lets its mail server send by control group as by user, also after the group is new."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.kernel.cgroups import ROOT, mounted
from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import wait_until
from lab.network import SOMEBODY4, SOMEBODY6
from lab.packets import FIN, RST
from lab.sink import Sink
from lab.sniffer import Sniffer
from tests.netns.test_firewall import both_families

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
NAME = f"egressguard-test-{os.getpid()}/mta"


@pytest.fixture
def group(root: None) -> Iterator[Path]:
    mine = mounted() is None
    if mine:  # a container that has none
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", ROOT], check=True)
    path = (mounted() or ROOT) / NAME
    path.mkdir(parents=True)
    yield path
    for made in (path, path.parent):
        with contextlib.suppress(FileNotFoundError):
            made.rmdir()
    if mine:
        subprocess.run(["umount", ROOT], check=True)


@pytest.fixture
def guarded(site: Deployment) -> Deployment:
    site.amend("", f'[own]\nguard = true\ncgroups = ["{NAME}"]')
    return site


CONNECT = """
import os, socket, sys
if sys.argv[1]:
    with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
try:
    socket.create_connection((sys.argv[2], 25), 3).close()
except OSError as error:
    sys.exit(error.errno or 1)
"""


def connects(site: Deployment, group: Path | None, family: int) -> int:
    """What a process of the group gets, as the router itself."""
    argv = ["nsenter", f"--net={site.world.router.path}", str(PROGRAMS / "python"), "-c", CONNECT, str(group or ""), SOMEBODY[family]]
    return subprocess.run(argv, check=False, timeout=30).returncode


@both_families
def test_the_groups_connections_pass_to_their_last_packet_and_others_are_refused(guarded: Deployment, group: Path, family: int) -> None:
    guarded.start_router()
    with Sink(guarded.world.outside), Sniffer(guarded.world.outside, "eth0") as wire:
        assert connects(guarded, None, family) == errno.ECONNREFUSED
        assert wire.packets() == []
        assert connects(guarded, group, family) == 0
        wire.wait_for(1, lambda packet: bool(packet.flags & (FIN | RST)))
        assert wire.stop() != []
    assert guarded.status()[0] == 0


@both_families
def test_a_group_below_it_is_meant_too(guarded: Deployment, group: Path, family: int) -> None:
    below = group / "worker"
    below.mkdir()
    guarded.start_router()
    try:
        with Sink(guarded.world.outside):
            assert connects(guarded, below, family) == 0
    finally:
        below.rmdir()


def test_a_group_that_is_made_anew_is_looked_up_again(guarded: Deployment, group: Path) -> None:
    guarded.start_router()
    with Sink(guarded.world.outside):
        assert connects(guarded, group, 4) == 0
        group.rmdir()
        group.mkdir()
        wait_until(lambda: connects(guarded, group, 4) == 0, "its new life to be known")
    assert "exposure" not in guarded.egressguard("history").stdout
    assert guarded.egressguard("plan").stdout == ""


def test_a_group_that_does_not_exist_is_a_finding(site: Deployment) -> None:
    site.amend("", '[own]\nguard = true\ncgroups = ["egressguard-none/mta"]')
    site.start_router()
    code, status = site.status()
    assert (code, "egressguard-none/mta: no such control group" in str(status["findings"])) == (2, True)
    assert connects(site, None, 4) == errno.ECONNREFUSED


def test_without_its_number_a_group_is_refused(guarded: Deployment, group: Path) -> None:
    """The mutant: nobody looks it up again."""
    router = guarded.start_router()
    router.terminate()
    router.wait()
    group.rmdir()
    group.mkdir()
    with Sink(guarded.world.outside):
        assert connects(guarded, group, 4) == errno.ECONNREFUSED
