"""Bad input: one clear message with what, where and what would be right; a non-zero exit; the kernel untouched."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab.deployment import PROGRAMS, Deployment
from lab.namespaces import Namespace

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
    "a folder that does not exist": (replaced("router.db", "nowhere/router.db"), ["nowhere/router.db", "unable to open"]),
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


@pytest.mark.parametrize(("harm", "code", "words"), [
    ("delete table inet egressguard", 3, "table is not in the kernel"),
    ("add table inet egressguard { flags dormant; }", 3, "dormant"),
    ("flush chain inet egressguard refuse", 2, "not the ones that egressguard loaded"),
    ("insert rule inet egressguard egress_forward accept", 2, "not the ones that egressguard loaded"),
    ("delete element inet egressguard smtp_ports { 25 }", 3, "does not hold port 25"),
    ("add element inet egressguard observed_family { ipv6 }", 3, "mode observe for ipv6"),
    ("flush chain inet egressguard egress_forward; delete chain inet egressguard egress_forward", 3, "does not hang"),
])
def test_status_without_the_daemon_tells_what_is_wrong_in_the_kernel(
        site: Deployment, harm: str, code: int, words: str) -> None:
    router = site.start_router()
    router.terminate()
    router.wait(60)
    site.world.router.run(["nft", harm])
    found, status = site.status()
    assert found == code
    assert words in status["findings"][0]["text"] if code == 3 else any(words in f["text"] for f in status["findings"])
    site.start_router()
    wait = site.status()
    assert wait[0] == 0, "the daemon puts it right at its start"
