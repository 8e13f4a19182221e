"""`table_owner`: while the daemon runs nobody else can change the table; its death opens nothing.

Debian 12's nftables cannot say it. There the daemon says so, and enforces and repairs as without it: each test
asserts one or the other, so that none passes for want of a version.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from egressguard.kernel import owner
from lab.deployment import Deployment
from lab.namespaces import wait_until
from lab.network import WEB2
from tests.netns.test_survival import both_families, flood, kernel_count, nothing_leaks

HARMS = ("flush ruleset", "delete table inet egressguard", "flush chain inet egressguard egress_forward",
         "add element inet egressguard opened_family { ipv4 timeout 1h, ipv6 timeout 1h }",
         "add table inet egressguard { flags dormant; }")


@pytest.fixture(scope="module")
def possible() -> bool:
    """Whether this machine can; what it lacks otherwise must have been said by nft or the kernel itself."""
    why = owner.why_not()
    assert not why or "Error:" in why, why
    return not why


@pytest.fixture
def daemon(site: Deployment) -> subprocess.Popen[Any]:
    site.router_config.write_text(f"table_owner = true\n{site.router_config.read_text()}")
    return site.start_router()


@pytest.fixture
def owned(site: Deployment, daemon: subprocess.Popen[Any]) -> Deployment:
    assert daemon.poll() is None
    return site


@contextmanager
def stopped(daemon: subprocess.Popen[Any]) -> Iterator[None]:
    """The daemon lives and does nothing."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def flags(site: Deployment) -> list[str]:
    listed = site.world.router.run(["nft", "-t", "list", "table", "inet", "egressguard"]).stdout
    return [word for line in listed.splitlines() if line.startswith("\tflags ") for word in line.split()[1].split(",")]


def nft(site: Deployment, text: str) -> int:
    return site.world.router.popen(["nft", text], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(30)


def findings(site: Deployment) -> list[str]:
    return [finding["text"] for finding in site.status()[1]["findings"]]


def exposures(site: Deployment) -> list[Any]:
    history = json.loads(site.egressguard("history", "--json").stdout)
    return [event["exposure"] for event in history if event["exposure"]]


@both_families
def test_nobody_else_changes_the_table(owned: Deployment, possible: bool, family: int) -> None:
    if not possible:
        assert any("table_owner: not possible here" in text for text in findings(owned))
        assert owned.status()[0] == 2
        assert nft(owned, "flush ruleset") == 0
        wait_until(lambda: owned.status()[1]["rules_intact"] is True, "the repair")
        return
    assert findings(owned) == []
    assert flags(owned) == ["owner", "persist"]
    with nothing_leaks(owned.world):
        source = flood(owned.world, family, full=False)
        codes = [nft(owned, harm) for harm in HARMS]
        sent = source.wait()
    assert codes == [0, 1, 1, 1, 1], "a flush of everything leaves it out, and says nothing"
    wait_until(lambda: kernel_count(owned) == sent, "every attempt counted")
    assert exposures(owned) == []


def test_the_owners_death_opens_nothing_and_the_next_one_takes_over(owned: Deployment, daemon: subprocess.Popen[Any],
                                                                    possible: bool) -> None:
    with nothing_leaks(owned.world):
        source = flood(owned.world, 4, full=False)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
        wait_until(lambda: "owner" not in flags(owned), "a table without an owner")
        assert ("persist" in flags(owned)) == possible
        owned.start_router()
        sent = source.wait()
    assert ("owner" in flags(owned)) == possible
    wait_until(lambda: kernel_count(owned) == sent, "every attempt counted")


def _quarantined(site: Deployment) -> bool:
    return WEB2.ipv4 in site.world.router.run(["nft", "list", "set", "inet", "egressguard", "quarantine4"]).stdout


def test_what_an_operator_orders_the_owner_does(owned: Deployment, possible: bool) -> None:
    assert ("owner" in flags(owned)) == possible
    done = owned.egressguard("quarantine", WEB2.ipv4, "--for", "1h", "--reason", "spams")
    assert done.returncode == 0, done.stderr
    assert _quarantined(owned)
    assert owned.egressguard("release", WEB2.ipv4, "--reason", "clean").returncode == 0
    assert not _quarantined(owned)
    owned.amend('mode = "enforce"', 'mode = "observe"')
    done = owned.egressguard("apply")
    assert done.returncode == 0, done.stderr
    assert owned.status()[1]["mode"] == "observe"


def test_an_unconfirmed_trial_returns_by_the_owner(owned: Deployment, possible: bool) -> None:
    assert ("owner" in flags(owned)) == possible
    owned.amend('mode = "enforce"', 'mode = "observe"')
    done = owned.egressguard("apply", "--confirm", "5s")
    assert done.returncode == 0, done.stderr
    assert owned.status()[1]["mode"] == "observe"
    wait_until(lambda: owned.status()[1]["mode"] == "enforce", "the former configuration")


def test_an_owner_that_is_away_is_not_waited_for_without_end(owned: Deployment, daemon: subprocess.Popen[Any],
                                                             possible: bool) -> None:
    with stopped(daemon):
        done = owned.egressguard("quarantine", WEB2.ipv4, "--for", "1h", "--reason", "spams")
    assert (done.returncode != 0, "is owned by another process" in done.stderr) == (possible, possible)
    wait_until(lambda: _quarantined(owned), "the order that was written down")


@pytest.mark.parametrize("wanted", [False, True])
def test_a_reload_switches_it(site: Deployment, possible: bool, wanted: bool) -> None:
    plain = site.router_config.read_text()
    site.router_config.write_text(f"table_owner = {str(not wanted).lower()}\n{plain}")
    daemon = site.start_router()
    with nothing_leaks(site.world):
        source = flood(site.world, 6, full=False)
        site.router_config.write_text(f"table_owner = {str(wanted).lower()}\n{plain}")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_until(lambda: "load: reload" in site.egressguard("history").stdout, "the reload")
        source.wait()
    assert ("owner" in flags(site)) == (possible and wanted)
    assert exposures(site) == []
    assert nft(site, "add element inet egressguard smtp_ports { 2525 }") == int(possible and wanted)


def test_mutant_without_the_flags_a_flush_takes_the_table(owned: Deployment, daemon: subprocess.Popen[Any],
                                                          possible: bool) -> None:
    """What the flags are for: with nobody to repair it, a table without them is gone."""
    with stopped(daemon):
        nft(owned, "flush ruleset")
        tables = owned.world.router.run(["nft", "list", "tables"]).stdout
    assert ("table inet egressguard" in tables) == possible
