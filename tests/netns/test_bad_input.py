"""Bad input: one clear message with what, where and what would be right; a non-zero exit; the kernel untouched."""

import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import Namespace, wait_until

EGRESSGUARD = PROGRAMS / "egressguard"


def run(host: Namespace, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", f"--net={host.path}", *map(str, argv)]
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)


def ruleset(host: Namespace) -> str:
    return run(host, "nft", "list", "ruleset").stdout


def replaced(old: str, new: str) -> Callable[[Deployment], None]:
    def change(site: Deployment) -> None:
        text = site.router_config.read_text()
        assert old in text
        site.router_config.write_text(text.replace(old, new, 1))
    return change


MISTAKES = {
    "an unknown key": (replaced("mode =", "mod ="), ["mod: unknown key; did you mean 'mode'?"]),
    "a malformed address": (replaced("192.0.2.10", "192.0.2.1O"), ["sender.0.addresses.0", "192.0.2.1O", "write an address"]),
    "a sender outside every interface": (replaced("192.0.2.10", "203.0.113.10"), [
        "sender.0.addresses: 203.0.113.10 lies behind no inside interface", "192.0.2.0/26"]),
    "an interface name that is none": (replaced('"dmz"', '"dmz; flush ruleset"'), ["inside.0.interfaces", "no interface name"]),
    "a missing file": (lambda site: site.router_config.unlink(), ["egressguard.toml: cannot be read: No such file"]),
    "rules that are missing": (replaced('rules = ""', 'rules = "/nowhere"'), ["/nowhere/egressguard.nft: cannot be read"]),
    "an exchange of an unknown kind": (replaced("sqlite:", "carrier-pigeon:"), ["carrier-pigeon", "write sqlite:/absolute/path"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_changes_nothing(site: Deployment, mistake: str) -> None:
    change, expected = MISTAKES[mistake]
    change(site)
    done = run(site.world.router, EGRESSGUARD, "run", "--config", site.router_config)
    assert done.returncode == 4
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert ruleset(site.world.router) == ""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_running_daemons_rules_survive_the_mistake_of_the_next_start(site: Deployment, mistake: str) -> None:
    router = site.start_router()
    router.terminate()
    router.wait(60)
    before = ruleset(site.world.router)
    MISTAKES[mistake][0](site)
    assert run(site.world.router, EGRESSGUARD, "run", "--config", site.router_config).returncode == 4
    assert ruleset(site.world.router) == before != ""


UNPRIVILEGED: Sequence[str] = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
WITHOUT_NF_TABLES: Sequence[str] = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=socket", "-e",
                                    "inject=socket:error=EPROTONOSUPPORT")


@pytest.mark.parametrize("command", ["run", "status"])
def test_without_privileges_it_says_what_it_needs(site: Deployment, command: str) -> None:
    site.folder.chmod(0o755)
    for folder in site.folder.parents:  # pytest's folders are its own user's; a stranger must reach the file
        if folder.stat().st_mode & 0o7777 == 0o700:
            folder.chmod(0o711)
    done = run(site.world.router, *UNPRIVILEGED, EGRESSGUARD, command, "--config", site.router_config)
    assert done.returncode == 4
    assert done.stderr.strip().splitlines() == [
        "egressguard: asking nf_tables for its generation: not permitted: this needs CAP_NET_ADMIN, run it as root"]
    assert ruleset(site.world.router) == ""


@pytest.mark.parametrize("command", ["run", "status"])
def test_without_nf_tables_it_says_so(site: Deployment, command: str) -> None:
    done = run(site.world.router, *WITHOUT_NF_TABLES, EGRESSGUARD, command, "--config", site.router_config)
    assert done.returncode == 4
    assert "this kernel has no nf_tables" in done.stderr
    assert "Traceback" not in done.stderr
    assert ruleset(site.world.router) == ""


def test_another_versions_table_is_left_alone(site: Deployment) -> None:
    run(site.world.router, "nft", "add table inet egressguard; add chain inet egressguard ruleset_v99")
    before = ruleset(site.world.router)
    done = run(site.world.router, EGRESSGUARD, "run", "--config", site.router_config)
    assert done.returncode == 4
    assert "another version" in done.stderr
    assert ruleset(site.world.router) == before
    assert run(site.world.router, EGRESSGUARD, "status", "--config", site.router_config).returncode == 3


def test_rules_with_an_error_change_nothing(site: Deployment, tmp_path: Path) -> None:
    rules = (Path(__file__).parents[2] / "rules/egressguard.nft").read_text()
    (tmp_path / "egressguard.nft").write_text(rules.replace("goto oddity", "goto oddities", 1))
    replaced('rules = ""', f'rules = "{tmp_path}"')(site)
    done = run(site.world.router, EGRESSGUARD, "run", "--config", site.router_config)
    assert done.returncode == 4
    assert f"loading {tmp_path}/egressguard.nft" in done.stderr
    assert ruleset(site.world.router) == ""


def test_a_second_daemon_is_refused(site: Deployment) -> None:
    site.start_router()
    before = ruleset(site.world.router)
    done = run(site.world.router, EGRESSGUARD, "run", "--config", site.router_config)
    assert (done.returncode, "another egressguard runs" in done.stderr) == (4, True)
    assert ruleset(site.world.router) == before


@pytest.mark.parametrize("arguments", [["stauts"], ["status", "--jsn"], ["history", "not-an-address"]])
def test_a_typo_on_the_command_line_is_not_mistaken_for_an_answer(site: Deployment, arguments: list[str]) -> None:
    done = run(site.world.router, EGRESSGUARD, *arguments)
    assert done.returncode == 4
    assert done.stderr
    assert "Traceback" not in done.stderr


HARMS = {
    "delete table inet egressguard": "table is not in the kernel",
    "add table inet egressguard { flags dormant; }": "dormant",
    "flush table inet egressguard": "not those of the rules file",
    "flush chain inet egressguard smtp": "not those of the rules file",
    "flush chain inet egressguard refuse": "not those of the rules file",
    "insert rule inet egressguard egress_forward accept": "not those of the rules file",
    "add chain inet egressguard extra": "not those of the rules file",
    "add chain inet egressguard extra { type nat hook prerouting priority dstnat; }; "
    'add rule inet egressguard extra iifname "web" tcp dport 25 dnat ip to 203.0.113.2:2525': "not those of the rules file",
    "add chain inet egressguard extra { type filter hook forward priority 0; policy drop; }": "not those of the rules file",
    "flush chain inet egressguard egress_forward; delete chain inet egressguard egress_forward; add chain inet "
    "egressguard egress_forward { type filter hook forward priority 300; }": "not those of the rules file",
    "flush chain inet egressguard egress_forward; delete chain inet egressguard egress_forward": "not those of the rules file",
    "delete element inet egressguard smtp_ports { 25 }": "does not hold port 25",
    "add element inet egressguard observed_family { ipv6 }": "mode observe for ipv6",
    'add element inet egressguard inside_if { "wan" }': "more is let through",
    'add element inet egressguard allow4 { "web" . 198.51.100.12 }': "more is let through",
    "flush table inet egressguard; delete set inet egressguard allow4": "not those of the rules file",
    "flush table inet egressguard; delete set inet egressguard allow4; "
    "add set inet egressguard allow4 { type ipv4_addr; }; "
    "add element inet egressguard allow4 { 198.51.100.12 }": None,
}


@pytest.mark.parametrize("harm", HARMS)
def test_status_tells_what_is_wrong_in_the_kernel_and_the_daemon_puts_it_right(site: Deployment, harm: str) -> None:
    router = site.start_router()
    router.terminate()
    router.wait(60)
    site.world.router.run(["nft", harm])
    done = site.egressguard("status", "--json")
    assert "Traceback" not in done.stderr
    words = HARMS[harm]
    if words is None:
        assert done.returncode == 4
        assert "somebody has made it anew with another type" in done.stderr
    else:
        status = json.loads(done.stdout)
        assert done.returncode == 3
        assert status["mode"] != "enforce"
        assert any(words in f["text"] for f in status["findings"])
    site.start_router()
    assert site.status()[0] == 0, "the daemon puts it right at its start"
    site.world.router.run(["nft", harm])
    wait_until(lambda: site.status()[0] == 0, "the repair while it runs")
    assert "exposure" in site.egressguard("history").stdout


def test_a_permitted_sender_that_is_missing_is_degraded(site: Deployment) -> None:
    router = site.start_router()
    router.kill()
    site.world.router.run(["nft", "flush set inet egressguard allow4"])
    code, status = site.status()
    assert (code, status["mode"]) == (2, "enforce")
    assert any("allow4 is not as configured" in f["text"] for f in status["findings"])


def test_rules_that_are_cut_short_are_refused(site: Deployment, tmp_path: Path) -> None:
    rules = (Path(__file__).parents[2] / "rules/egressguard.nft").read_text()
    (tmp_path / "egressguard.nft").write_text(rules[:rules.index("\n\ntable inet egressguard {\n\t# A flood is")])
    replaced('rules = ""', f'rules = "{tmp_path}"')(site)
    done = run(site.world.router, EGRESSGUARD, "run", "--config", site.router_config)
    assert (done.returncode, "cut short" in done.stderr) == (4, True)
    assert ruleset(site.world.router) == ""


CUT = {  # what makes egressguard load the file, and where the part ends that nft would take for a whole one
    "redirect.nft": ('mode = "enforce"\nanswer = "redirect"\nredirect.relays = ["192.0.2.10", "2001:db8:0:a::2"]', "\n\nflush chain"),
    "own_cgroup.nft": ('mode = "enforce"\nown.guard = true\nown.cgroups = ["mta"]', "insert rule inet egressguard own socket cgroupv2 level 2"),
}


def a_part_of_a_file_is_refused(site: Deployment, name: str) -> None:
    config, end = CUT[name]
    for path in (Path(__file__).parents[2] / "rules").glob("*.nft"):
        (site.folder / path.name).write_text(path.read_text())
    site.amend('rules = ""', f'rules = "{site.folder}"')
    site.amend('mode = "enforce"', config)
    whole = (site.folder / name).read_text()
    (site.folder / name).write_text(whole[:whole.index(end)] + "\n")
    done = site.egressguard("apply")
    assert (done.returncode, f"{name}: do not end with chain" in done.stderr, ruleset(site.world.router)) == (4, True, "")
    (site.folder / name).write_text(whole)
    assert site.egressguard("apply").returncode == 0


@pytest.mark.parametrize("name", CUT)
def test_a_file_beside_the_table_s_own_that_is_cut_short_is_refused(site: Deployment, name: str) -> None:
    a_part_of_a_file_is_refused(site, name)


@pytest.mark.parametrize("name", CUT)
def test_mutant_that_looks_for_no_end_loads_a_part(site: Deployment, name: str) -> None:
    site.change = "import egressguard.kernel.rules_file as r; r.RulesFile._read = lambda self: self.path.read_text()"
    with pytest.raises(AssertionError):
        a_part_of_a_file_is_refused(site, name)


@pytest.mark.parametrize("content", ["garbage " * 1000, None])
def test_without_a_usable_database_it_enforces_and_says_so(site: Deployment, content: str | None) -> None:
    path = site.folder / "router.db"
    path.mkdir() if content is None else path.write_text(content)
    site.start_router()
    code, status = site.status()
    assert (code, status["mode"]) == (2, "enforce")
    assert any(f["text"].startswith("database: ") for f in status["findings"])


def test_the_folder_of_the_database_is_made(site: Deployment) -> None:
    site.amend("router.db", "new/folder/router.db")
    site.start_router()
    assert site.status()[0] == 0


def test_an_exchange_in_a_folder_that_is_not_there_is_told(site: Deployment) -> None:
    """It is more likely a slip of the pen, behind which router and relay would miss each other."""
    site.amend("exchange.db", "other/new/exchange.db")
    site.start_router()
    code, status = site.status()
    assert code == 2
    assert any("other/new" in finding["text"] for finding in status["findings"]), status["findings"]
    assert not (site.folder / "other").exists()


def test_a_reload_that_is_refused_keeps_the_configuration_in_force(site: Deployment) -> None:
    router = site.start_router()
    site.amend('rules = ""', 'rules = "/nowhere"')
    site.amend("", '[[sender]]\nname = "new"\naddresses = ["198.51.100.99"]')
    router.send_signal(signal.SIGHUP)
    wait_until(lambda: "not reloaded" in site.log("egressguard"), "the complaint")
    site.world.router.run(["nft", "flush ruleset"])
    wait_until(lambda: "egress_forward" in ruleset(site.world.router), "the repair")
    assert "198.51.100.99" not in ruleset(site.world.router)


def test_nobody_can_keep_the_daemon_from_starting(site: Deployment) -> None:
    """Not with a lock on a file of ours: they are not for others to open."""
    site.start_router().kill()
    files = [site.folder / "run/router.heartbeat", *site.folder.glob("router.db*")]
    assert len(files) >= 2
    assert [f for f in files if f.stat().st_mode & 0o007] == []
    for _ in range(5):
        site.status()
    site.start_router()


def test_an_exchange_that_is_deleted_is_made_anew_by_the_router(site: Deployment) -> None:
    site.start_router()
    for path in site.folder.glob("exchange.db*"):
        path.unlink()
    wait_until(lambda: (site.folder / "exchange.db").exists(), "a new exchange")
    site.start_milter()
    wait_until(lambda: list(site.status()[1]["relays"]) == ["relay"], "the relay's report")
