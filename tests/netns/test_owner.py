"""`table_owner`: while the daemon runs nobody else can change the table; its death opens nothing.

Debian 12's nftables cannot say it. There the daemon says so, and enforces and repairs as without it: each test
asserts one or the other, so that none passes for want of a version.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egressguard.kernel import owner
from lab.deployment import Deployment
from lab.namespaces import wait_until
from lab.network import WEB2
from tests.netns.test_survival import both_families, flood, kernel_count, nothing_leaks
from tests.netns.test_trial import asking

ROOT = Path(__file__).parents[2]

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


def test_the_probe_finds_what_the_version_of_nft_makes_possible(site: Deployment, possible: bool) -> None:
    """Both halves of this file are asserted somewhere: which one is told by the version, not by the probe."""
    version = site.world.router.run(["nft", "--version"]).stdout.split()[1].lstrip("v")
    assert (tuple(map(int, version.split("."))) >= (1, 1, 0)) == possible, owner.why_not()
    site.router_config.write_text(f"table_owner = true\n{site.router_config.read_text()}")
    remarks = json.loads(site.egressguard("check", "--json").stdout)["remarks"]
    for told in (site.egressguard("check").stdout, " ".join(remarks)):
        assert ("table_owner is not possible here" in told) != possible


def test_a_command_that_is_stopped_at_its_terminal_owns_nothing(owned: Deployment, daemon: subprocess.Popen[Any],
                                                                possible: bool) -> None:
    """Nobody would come at the table, and an unconfirmed trial would never return."""
    owned.amend('mode = "enforce"', 'mode = "observe"')
    assert owned.egressguard("apply").returncode == 0
    daemon.terminate()
    daemon.wait()
    owned.amend('mode = "observe"', 'mode = "enforce"')
    command = asking(owned, "5s")
    command.process.send_signal(signal.SIGSTOP)
    assert (flags(owned), observed(owned)) == (["persist"] * possible, False)
    wait_until(lambda: observed(owned), "the former configuration")
    assert flags(owned) == ["persist"] * possible
    command.process.send_signal(signal.SIGCONT)
    assert command.process.wait(30) == 0
    os.close(command.terminal)


def observed(site: Deployment) -> bool:
    """What a trial of mode enforce takes away: it comes back by no timeout of the kernel."""
    return "ipv4" in site.world.router.run(["nft", "list", "set", "inet", "egressguard", "observed_family"]).stdout


def test_a_trial_returns_although_its_owner_was_killed(owned: Deployment, daemon: subprocess.Popen[Any]) -> None:
    owned.amend('mode = "enforce"', 'mode = "observe"')
    assert owned.egressguard("apply").returncode == 0
    owned.amend('mode = "observe"', 'mode = "enforce"')
    assert owned.egressguard("apply", "--confirm", "5s").returncode == 0
    assert not observed(owned)
    daemon.kill()
    daemon.wait()
    wait_until(lambda: observed(owned), "the former configuration")


def load_rules(site: Deployment, *arguments: str) -> str:
    """What systemd/load-rules says of `arguments`; it has to succeed."""
    folder = site.folder / "installed"
    shutil.copytree(ROOT / "rules", folder / "rules", dirs_exist_ok=True)
    shutil.copy(ROOT / "systemd" / "load-rules", folder)
    done = site.world.router.run(["env", f"EGRESSGUARD_STATE={site.folder}", f"EGRESSGUARD_CONFIG={site.router_config}",
                                  str(folder / "load-rules"), *arguments])
    return done.stderr


def test_a_restart_of_nftables_goes_beside_it(owned: Deployment, daemon: subprocess.Popen[Any], possible: bool) -> None:
    """Owned, the flush leaves it out; without its owner, the last good rules come in the flush's transaction."""
    ruleset = owned.folder / "nftables.conf"
    for theirs in ("one", "two"):
        ruleset.write_text(f"flush ruleset\ntable inet {theirs} {{\n}}\n")
        with nothing_leaks(owned.world):
            source = flood(owned.world, 4, full=False)
            load_rules(owned, "beside", str(ruleset))
            source.wait()
        assert nft(owned, f"list table inet {theirs}") == 0
        assert owned.status()[1]["rules_intact"] is True
        assert ("owner" in flags(owned)) == (possible and theirs == "one")
        daemon.terminate()
        daemon.wait()


def test_a_boot_loads_what_an_owner_has_kept_and_an_older_nft_the_rules_alone(
        owned: Deployment, daemon: subprocess.Popen[Any], possible: bool) -> None:
    daemon.terminate()
    daemon.wait()
    last_good = owned.folder / "last-good.nft"
    for flag in ("persist", "never-heard-of"):
        assert nft(owned, "delete table inet egressguard") == 0, "a stopped daemon's table is anybody's"
        last_good.write_text(last_good.read_text().replace("table inet egressguard {\n", "table inet egressguard {\n"
                             f"\tflags {flag}\n" if flag != "persist" else "table inet egressguard {\n", 1))
        said = load_rules(owned)
        assert ("alone: port 25 is shut" in said) == (flag != "persist"), said
        assert flags(owned) == ["persist"] * (possible and flag == "persist")
    owned.start_router()
    assert ("owner" in flags(owned)) == possible
