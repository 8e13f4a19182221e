"""From `apt install` to `apt purge` on a freshly installed Debian: it works, it blocks, it stays, it goes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.crossroads import Crossroads, prepare
from lab.debian import Disk, Machine, image
from lab.namespaces import wait_until
from lab.topology import SOMEBODY4, SOMEBODY6, WEB1
from tests.machine.conftest import Packages


def status(machine: Machine) -> tuple[int, dict[str, Any]]:
    done = machine.execute("egressguard", "status", "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def apt(machine: Machine, *words: str) -> str:
    return machine.run("apt-get", "-qq", "-y", *words, DEBIAN_FRONTEND="noninteractive")


def test_the_same_commit_makes_the_same_bytes(packages: Packages) -> None:
    first, again = packages.hashes
    if not first:
        pytest.skip("--packages: not built here")
    assert first == again
    assert len(first.splitlines()) == 4  # two packages, a wheel, an sdist


def test_every_unit_exposes_little(installed: Disk) -> None:
    with Disk(installed.written, *installed.layers) as disk, Crossroads(disk, per_second=0) as here:
        here.machine.wait_until_booted()
        for unit in ("egressguard-rules", "egressguard-fallback", "egressguard"):
            here.machine.run("systemd-analyze", "security", "--threshold=20", f"{unit}.service")
            here.machine.run("systemd-analyze", "verify", "--man=no", f"{unit}.service")


def test_from_installing_to_purging(distribution: str, packages: Packages) -> None:
    with Disk(image(distribution)) as disk:
        prepare(disk)
        with Crossroads(disk, per_second=0) as here:
            machine = here.machine
            machine.wait_until_booted()
            with machine.internet():
                machine.copy_in(packages.deb("egressguard"), "/var/tmp")
                machine.copy_in(packages.deb("egressguard", 2), "/var/tmp")
                machine.run("apt-get", "-qq", "update")
                said = apt(machine, "--no-install-recommends", "install", str(
                    Path("/var/tmp") / packages.deb("egressguard").name))
            assert "run egressguard init" in said
            assert "egressguard" not in machine.run("nft", "list", "tables"), "not configured, nothing blocked"
            said = machine.run("egressguard", "init", "--yes")
            assert f"{WEB1.segment}: inside" in said
            code, seen = status(machine)
            assert (code, seen["mode"], seen["daemon"]["runs"]) == (3, "observe", True)
            machine.power_off()
        _after_the_reboot(disk, packages)


def _after_the_reboot(disk: Disk, packages: Packages) -> None:
    with Crossroads(disk) as here:
        machine = here.machine
        assert machine.wait_until_booted() == "running"
        here.smtp.wait_for(50)
        wait_until(lambda: status(machine)[1]["hosts"].get(WEB1.ipv4, {}).get("attempts", 0) > 50, "counted attempts")
        enforce(machine)
        assert "enforce, rules intact" in machine.execute("egressguard", "status").stdout
        code, seen = status(machine)
        assert (code, seen["mode"], seen["rules_intact"], seen["findings"]) == (0, "enforce", True, [])
        _fly_the_canary(machine)
        _tell_of_a_foreign_flush(machine)
        _try_out(machine)
        _upgrade(here, packages)
        _remove_and_purge(here, packages)


def enforce(machine: Machine) -> None:
    machine.run("sed", "-i", 's/mode = "observe"/mode = "enforce"/', "/etc/egressguard/egressguard.toml")
    machine.run("systemctl", "reload", "egressguard")
    wait_until(lambda: status(machine)[1]["mode"] == "enforce", "mode enforce")


def _fly_the_canary(machine: Machine) -> None:
    """By the daemon, within its unit's bounds: without CAP_SYS_ADMIN."""
    text = f'[canary]\nenabled = true\nperiod_s = 5.0\ndestinations = ["{SOMEBODY4}", "{SOMEBODY6}"]\n'
    machine.run("sh", "-c", f"cat >>/etc/egressguard/egressguard.toml <<'END'\n{text}END")
    machine.run("systemctl", "reload", "egressguard")
    wait_until(lambda: status(machine)[1]["canary"] is not None, "the canary")
    assert [flight["fate"] for flight in status(machine)[1]["canary"]["flights"]] == ["refused", "refused"]


# Takes whatever comes by POST, one line each, on this machine alone.
LISTENER = """
import http.server, sys
class Takes(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode().replace("\\n", " ")
        open("/var/tmp/posted", "a").write(body + "\\n")
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8080), Takes).serve_forever()
"""


def _tell_of_a_foreign_flush(machine: Machine) -> None:
    """By the daemon, within its unit's bounds: a program of the operator's, a webhook and the journal."""
    machine.run("sh", "-c", f"cat >/var/tmp/listener.py <<'END'\n{LISTENER}END")
    machine.run("systemd-run", "--unit=listener", "python3", "/var/tmp/listener.py")
    machine.run("sh", "-c", "printf '#!/bin/sh\\ncat >>/var/lib/egressguard/told\\n' >/usr/local/bin/on-alert; "
                            "chmod 755 /usr/local/bin/on-alert")
    text = '[notify]\ncommand = ["/usr/local/bin/on-alert"]\nwebhook = "http://127.0.0.1:8080/"\n'
    machine.run("sh", "-c", f"cat >>/etc/egressguard/egressguard.toml <<'END'\n{text}END")
    machine.run("systemctl", "reload", "egressguard")
    machine.run("nft", "flush", "ruleset")
    for path in ("/var/lib/egressguard/told", "/var/tmp/posted"):
        wait_until(partial(_holds, machine, path, '"exposure"'), f"the exposure in {path}")
    assert "exposure" in machine.run("journalctl", "-u", "egressguard", "--no-pager")
    _test_the_alerts(machine)
    machine.run("rm", "/usr/local/bin/on-alert")


def _test_the_alerts(machine: Machine) -> None:
    """By the daemon: what its unit forbids fails, though a shell may do it."""
    tested = machine.run("egressguard", "notify", "--test")
    assert tested.splitlines() == [f"{channel}: delivered by the daemon" for channel in ("webhook", "command")]
    machine.run("sh", "-c", "printf '#!/bin/sh\\n' >/root/on-alert; chmod 755 /root/on-alert")
    machine.run("sed", "-i", "s,/usr/local/bin/on-alert,/root/on-alert,", "/etc/egressguard/egressguard.toml")
    _reload(machine)
    done = machine.execute("egressguard", "notify", "--test")
    assert (done.returncode, done.stdout) == (4, "webhook: delivered by the daemon\n"), "ProtectHome= hides /root"
    assert "command: " in done.stderr
    assert "(tried by the daemon)" in done.stderr
    machine.run("systemctl", "stop", "egressguard")
    alone = machine.run("egressguard", "notify", "--test")
    assert alone.count("delivered by this command") == 2, "from a shell it would have looked right"
    machine.run("systemctl", "start", "egressguard")
    machine.run("rm", "/root/on-alert")
    machine.run("sed", "-i", "/^command = /d", "/etc/egressguard/egressguard.toml")
    _reload(machine)


def _reload(machine: Machine) -> None:
    """Returns once the new [notify] is in force: a reload is a signal, and a change of the file right after it counts, too."""
    machine.run("systemctl", "reload", "egressguard")
    wait_until(lambda: "reload it first" not in machine.execute("egressguard", "notify", "--test").stderr, "the reload")


def _try_out(machine: Machine) -> None:
    """Nobody confirms, and the daemon is away: the supervisor, in a scope of its own, puts the former one back."""
    file = "/etc/egressguard/egressguard.toml"
    machine.run("cp", "-p", file, "/var/tmp/former.toml")
    machine.run("sed", "-i", 's/mode = "enforce"/mode = "observe"/', file)
    machine.run("egressguard", "apply", "--confirm", "10s")
    machine.run("systemctl", "stop", "egressguard")
    assert status(machine)[1]["mode"] == "observe"
    wait_until(lambda: status(machine)[1]["mode"] == "enforce", "the former configuration")
    machine.run("cp", "-p", "/var/tmp/former.toml", file)
    machine.run("systemctl", "start", "egressguard")
    wait_until(lambda: status(machine)[0] == 0, "a healthy status")


def _holds(machine: Machine, path: str, text: str) -> bool:
    return text in machine.execute("cat", path).stdout


def _upgrade(here: Crossroads, packages: Packages) -> None:
    machine, passed = here.machine, here.smtp.count()
    before, pid = status(machine)[1]["totals"]["attempts"], machine.run("pidof", "-x", "egressguard")
    apt(machine, "install", str(Path("/var/tmp") / packages.deb("egressguard", 2).name))
    here.wait_for_traffic()
    assert here.smtp.count() == passed, "an upgrade opens nothing"
    wait_until(lambda: status(machine)[1]["daemon"]["runs"], "the new daemon")
    assert machine.run("pidof", "-x", "egressguard") != pid
    assert status(machine)[1]["totals"]["attempts"] > before, "an upgrade keeps the counts"


def _remove_and_purge(here: Crossroads, packages: Packages) -> None:
    machine, passed = here.machine, here.smtp.count()
    said = apt(machine, "remove", "egressguard")
    assert "nft delete table inet egressguard" in said, "remove says how to open"
    here.wait_for_traffic()
    assert here.smtp.count() == passed, "remove keeps the enforcement"
    assert machine.execute("test", "-e", "/etc/egressguard/egressguard.toml").returncode == 0
    apt(machine, "install", str(Path("/var/tmp") / packages.deb("egressguard", 2).name))
    wait_until(lambda: status(machine)[1]["daemon"]["runs"], "the daemon of a package that is installed again")
    assert here.smtp.count() == passed
    apt(machine, "purge", "egressguard")
    here.wait_for_traffic()
    assert here.smtp.count() > passed, "purge takes the rules out of the kernel"
    assert "egressguard" not in machine.run("nft", "list", "tables")
    assert machine.execute("getent", "passwd", "egressguard").returncode != 0
    assert machine.execute("getent", "group", "egressguard-exchange").returncode != 0


@pytest.mark.parametrize("name", ["egressguard-milter"])
def test_the_milter_serves_after_its_installation(distribution: str, packages: Packages, name: str) -> None:
    with Disk(image(distribution)) as disk, Crossroads(disk, per_second=0) as here:
        machine = here.machine
        machine.wait_until_booted()
        with machine.internet():
            machine.copy_in(packages.deb(name), "/var/tmp")
            machine.run("apt-get", "-qq", "update")
            apt(machine, "--no-install-recommends", "install", f"/var/tmp/{packages.deb(name).name}")
        machine.run("systemctl", "is-active", "egressguard-milter")
        machine.run("systemd-analyze", "security", "--threshold=20", "egressguard-milter.service")
        machine.run("systemd-analyze", "verify", "--man=no", "egressguard-milter.service")
        assert machine.run("egressguard-milter", "explain", WEB1.ipv4)
        _may_open_as_many_files_as_its_unit_says(machine, name)
        apt(machine, "purge", name)
        assert machine.execute("getent", "passwd", name).returncode != 0


def _may_open_as_many_files_as_its_unit_says(machine: Machine, unit: str) -> None:
    """Or as many as PID 1 itself may give, where that is less."""
    wanted = min(int(machine.run("systemctl", "show", "--value", "--property=LimitNOFILE", unit)), _open_files(machine, "1", column=4))
    assert wanted > 1024
    assert _open_files(machine, _main_pid(machine, unit)) >= wanted
    machine.run("sh", "-c", f"mkdir -p /run/systemd/system/{unit}.service.d; "
                            f"printf '[Service]\nLimitNOFILE=1024\n' >/run/systemd/system/{unit}.service.d/mutant.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)
    assert _open_files(machine, _main_pid(machine, unit)) == 1024, "mutant: the unit's word counts"
    assert "room for" in machine.run(unit, "status"), "and what it costs is told"
    machine.run("rm", "-r", f"/run/systemd/system/{unit}.service.d")


def _main_pid(machine: Machine, unit: str) -> str:
    return machine.run("systemctl", "show", "--value", "--property=MainPID", unit).strip()


def _open_files(machine: Machine, pid: str, column: int = 3) -> int:
    """The soft limit; of column 4 the hard one."""
    line = next(line for line in machine.run("cat", f"/proc/{pid}/limits").splitlines() if line.startswith("Max open files"))
    return int(line.split()[column])
