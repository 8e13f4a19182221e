"""`apply --confirm`: a configuration is in force for a time, and the former one returns by itself, whoever is dead.

The candidate of these tests lets web1 send and shuts out the mailserver; both are seen from the hosts themselves.
"""

import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import LabError, wait_until
from lab.network import MAILSERVER, SOMEBODY4, SOMEBODY6, WEB1, World
from lab.sink import Sink

TIME = "10s"
LONG = "120s"  # for a trial that is ended before its time, however busy the machine
RETURNED_S = 60.0  # a machine that is busy; the trial itself takes ten seconds
OPEN, SHUT = 0, errno.ECONNREFUSED


def outcome(destination: str) -> int:
    try:
        socket.create_connection((destination, 25), timeout=3).close()
    except OSError as error:
        return error.errno or -1
    return 0


def reached(site: Deployment) -> dict[str, list[int]]:
    """What web1 and the mailserver get in each family when they speak SMTP to the outside."""
    return {host.label: [host.call(outcome, a) for a in (SOMEBODY4, SOMEBODY6)]
            for host in (site.world.web1, site.world.mailserver)}


FORMER = {"web1": [SHUT, SHUT], "mailserver": [OPEN, OPEN]}
CANDIDATE = {"web1": [OPEN, OPEN], "mailserver": [SHUT, SHUT]}


@pytest.fixture(autouse=True)
def sink(fresh_world: World) -> Iterator[Sink]:
    with Sink(fresh_world.outside) as listening:
        yield listening


@pytest.fixture
def supervisors(site: Deployment) -> Iterator[Callable[[], list[int]]]:
    """The pids of this site's supervisors; none may be left at the end."""
    def pids() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if b"egressguard.supervisor" in (line := path.read_bytes()) and str(site.folder).encode() in line:
                    found.append(int(path.parent.name))
        return found

    yield pids
    for pid in pids():
        os.kill(pid, signal.SIGKILL)


def amend(site: Deployment) -> None:
    """web1 and the mailserver change places."""
    text = site.router_config.read_text()
    for old, new in ((WEB1.ipv4, "A"), (WEB1.ipv6, "B"), (MAILSERVER.ipv4, WEB1.ipv4), (MAILSERVER.ipv6, WEB1.ipv6),
                     ("A", MAILSERVER.ipv4), ("B", MAILSERVER.ipv6)):
        text = text.replace(f'"{old}"', f'"{new}"')
    site.router_config.write_text(text)


def say(site: Deployment, *arguments: str) -> str:
    done = site.egressguard(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(site: Deployment, *arguments: str) -> str:
    done = site.egressguard(*arguments)
    assert done.returncode == 4
    return done.stderr


def returns(site: Deployment) -> None:
    wait_until(lambda: reached(site) == FORMER, "the former configuration", timeout_s=RETURNED_S)


def kinds(site: Deployment) -> list[str]:
    return [entry["kind"] for entry in json.loads(say(site, "history", "--json"))]


def tried(site: Deployment, *, daemon: bool, time_: str = TIME) -> subprocess.Popen[bytes] | None:
    """The former configuration in force, the candidate on trial."""
    router = site.start_router() if daemon else None
    if not daemon:
        say(site, "apply")
    assert reached(site) == FORMER
    amend(site)
    say(site, "apply", "--confirm", time_)
    assert reached(site) == CANDIDATE
    return router


with_and_without_daemon = pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])


@with_and_without_daemon
def test_without_a_confirmation_the_former_configuration_returns_and_stays(site: Deployment, daemon: bool) -> None:
    tried(site, daemon=daemon)
    assert json.loads(site.egressguard("status", "--json").stdout)["trial_left_s"] > 0
    returns(site)
    time.sleep(1)
    assert reached(site) == FORMER
    wait_until(lambda: kinds(site).count("rollback") == 1, "one line of history")
    code, status = site.status()
    assert code == 2
    assert status["trial_left_s"] is None
    assert any("tried and not confirmed" in finding["text"] for finding in status["findings"])


@with_and_without_daemon
def test_a_confirmation_keeps_it_beyond_the_kernels_timeouts(site: Deployment, daemon: bool) -> None:
    tried(site, daemon=daemon, time_=LONG)
    say(site, "confirm")
    assert reached(site) == CANDIDATE
    time.sleep(1)  # a round of the daemon, which may not put the times back
    assert "timeout" not in site.world.router.run(["nft", "list", "set", "inet", "egressguard", "allow4"]).stdout.partition("elements")[2]
    assert "rollback" not in kinds(site)
    assert site.status()[0] == (0 if daemon else 2)
    assert "nothing to confirm" in refused(site, "confirm")


def test_a_daemon_that_dies_and_one_that_starts_anew_change_nothing_about_the_trial(site: Deployment) -> None:
    router = tried(site, daemon=True)
    assert router is not None
    router.kill()
    router.wait()
    router = site.start_router()
    returns(site)
    router.kill()
    router.wait()
    site.start_router()
    assert reached(site) == FORMER, "a start does not take an unconfirmed file over"


def test_killed_supervisor_and_killed_daemon_leave_the_kernels_timeouts(
        site: Deployment, supervisors: Callable[[], list[int]]) -> None:
    router = tried(site, daemon=True)
    assert router is not None
    for pid in supervisors():
        os.kill(pid, signal.SIGKILL)
    router.kill()
    router.wait()
    wait_until(lambda: reached(site)["web1"] == FORMER["web1"], "the end of what was added", timeout_s=RETURNED_S)
    site.start_router()
    assert reached(site) == FORMER


def test_mutant_without_kernel_timeouts_what_was_added_stays(
        site: Deployment, supervisors: Callable[[], list[int]]) -> None:
    say(site, "apply")
    amend(site)
    site.world.router.run([sys.executable, "-c",
                           "from egressguard.core import trial; trial.temporary = lambda *_: {}\n"
                           "from egressguard.cli import main; import sys; sys.argv[0] = 'egressguard'; main()",
                           "apply", "--confirm", TIME, "--config", site.router_config])
    for pid in supervisors():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(LabError):
        wait_until(lambda: reached(site)["web1"] == FORMER["web1"], "the end of what was added", timeout_s=20)


def test_a_killed_command_and_a_closed_terminal_do_not_keep_it(site: Deployment) -> None:
    say(site, "apply")
    amend(site)
    command = asking(site, TIME)
    wait_until(lambda: reached(site) == CANDIDATE, "the candidate")
    command.process.kill()
    command.process.wait()
    os.close(command.terminal)  # SIGHUP to whoever still has it
    returns(site)


def test_mutant_without_a_supervisor_removals_stay(site: Deployment, supervisors: Callable[[], list[int]]) -> None:
    tried(site, daemon=False)
    for pid in supervisors():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(LabError):
        wait_until(lambda: reached(site) == FORMER, "the former configuration", timeout_s=18)


class asking:  # noqa: N801
    """`apply --confirm` at a terminal."""

    def __init__(self, site: Deployment, time_: str = "60s") -> None:
        self.terminal, there = pty.openpty()
        self.process = site.world.router.popen(
            [PROGRAMS / "egressguard", "apply", "--confirm", time_, "--config", site.router_config],
            stdin=there, stdout=there, stderr=there, start_new_session=True)
        os.close(there)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(self.terminal, 1000)


@pytest.mark.parametrize(("answer", "wanted"), [("y\n", CANDIDATE), ("\n", FORMER), (None, FORMER)])
def test_the_answer_at_the_terminal_decides(site: Deployment, answer: str | None, wanted: dict[str, list[int]]) -> None:
    say(site, "apply")
    amend(site)
    command = asking(site)
    assert reached(site) == CANDIDATE
    if answer is None:
        command.process.send_signal(signal.SIGINT)
    else:
        os.write(command.terminal, answer.encode())
    assert command.process.wait(30) == 0
    assert reached(site) == wanted
    os.close(command.terminal)


def test_two_trials_at_once_are_refused_and_so_is_an_apply_meanwhile(site: Deployment) -> None:
    tried(site, daemon=True, time_=LONG)
    for arguments in (["apply", "--confirm", TIME], ["apply"]):
        assert "on trial" in refused(site, *arguments)
    say(site, "confirm", "--no")
    assert reached(site) == FORMER


def test_without_anything_to_return_to_it_is_refused(site: Deployment) -> None:
    assert "none to return to" in refused(site, "apply", "--confirm", TIME)
    assert site.world.router.run(["nft", "list", "ruleset"]).stdout == ""


def test_an_order_does_not_carry_out_an_unconfirmed_file(site: Deployment) -> None:
    say(site, "apply")
    amend(site)
    say(site, "apply", "--confirm", LONG)
    say(site, "confirm", "--no")
    say(site, "quarantine", "198.51.100.12", "--for", "10m", "--reason", "a test")
    assert reached(site) == FORMER


def test_rules_files_return_as_well(site: Deployment, tmp_path: Path) -> None:
    site.start_router()
    folder = tmp_path / "rules"
    folder.mkdir()
    for path in (Path(__file__).parents[2] / "rules").glob("*.nft"):
        (folder / path.name).write_text(path.read_text().replace("limit rate 500/second burst 500", "limit rate 7/second burst 7"))
    site.amend('rules = ""', f'rules = "{folder}"')
    say(site, "apply", "--confirm", TIME)
    shown = ["nft", "-t", "list", "table", "inet", "egressguard"]
    assert "7/second" in site.world.router.run(shown).stdout
    wait_until(lambda: "500/second" in site.world.router.run(shown).stdout, "the former rules", timeout_s=RETURNED_S)


def test_a_plain_apply_is_the_daemons_configuration_from_then_on(site: Deployment) -> None:
    router = site.start_router()
    amend(site)
    say(site, "apply")
    time.sleep(6)  # longer than the daemon's full comparison
    assert reached(site) == CANDIDATE
    assert router.poll() is None
