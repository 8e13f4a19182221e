"""The very commands of the units, in a namespace under attack: what a boot loads, and what no order opens.

Whole boots, with systemd as PID 1 and every unit disturbed in turn: tests/machine (script/machine-test).
"""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from egressguard.core.ruleset import VERSION_CHAIN
from egressguard.last_good import FILE
from lab.deployment import Deployment
from lab.namespaces import LabError, wait_until
from lab.network import SOMEBODY4, SOMEBODY6, World
from lab.sniffer import CountingSniffer
from lab.syns import SynSource, Wire
from lab.topology import OUTSIDE, RELAY, ROUTER_MAC, WEB2

PROJECT = Path(__file__).parents[2]
UNITS = PROJECT / "systemd"
# An earlier version, whose sets and hooks meant something else.
OLDER = """
table inet egressguard {
    set known4 { type ipv4_addr . inet_service; }
    set attempts { type ipv4_addr; }
    chain egress_forward { type filter hook forward priority -7; policy accept; tcp dport 25 drop; }
    chain ruleset_v1 { }
}
"""
INSTALLED = "/usr/lib/egressguard/"


def commands(unit: str, key: str) -> list[list[str]]:
    """The unit's lines of `key`, as argument lists."""
    lines = re.findall(rf"^{key}=[-+!:@]*(\S.*)$", (UNITS / unit).read_text(), re.MULTILINE)
    assert lines, f"{unit} has no {key}"
    return [shlex.split(line) for line in lines]


class Router:
    """The lab's router with the units' program in a folder like the installed one, and a state folder."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.state = world, folder
        self.program = folder / "lib"
        (self.program / "rules").mkdir(parents=True)
        (self.program / "load-rules").write_bytes((UNITS / "load-rules").read_bytes())
        (self.program / "load-rules").chmod(0o755)
        self.rules, self.bridge_rules = (self.program / "rules" / name for name in ("egressguard.nft", "bridge.nft"))
        for file in (self.rules, self.bridge_rules):
            file.write_bytes((PROJECT / "rules" / file.name).read_bytes())

    def runs(self, unit: str, key: str = "ExecStart") -> int:
        """Runs a unit's commands in the namespace, without a daemon, as systemd would; the last exit code."""
        code = 0
        for program, *words in commands(unit, key):
            argv = [program.replace(INSTALLED, f"{self.program}/"),
                    *(word.replace("/etc/nftables.conf", str(self.state / "nftables.conf")) for word in words)]
            paths = {"EGRESSGUARD_STATE": self.state, "EGRESSGUARD_CONFIG": self.state / "egressguard.toml"}
            code = self.world.router.popen(argv, env={**os.environ, **{name: str(path) for name, path in paths.items()}},
                                           stderr=subprocess.DEVNULL).wait(60)
        return code

    def boots(self) -> None:
        """Ours, and the fallback, in the order of the units."""
        self.nft("flush", "ruleset")
        self.runs("egressguard-rules.service")
        self.runs("egressguard-fallback.service")

    def starts_again(self) -> None:
        """What `systemctl restart` of both does."""
        for unit in ("egressguard-rules.service", "egressguard-fallback.service"):
            assert self.runs(unit) == 0

    def blocked(self) -> int:
        """SYNs that the table has counted as refused; by the rules alone, which know no inside, nobody's attempts."""
        listed = self.nft("list", "counter", "inet", "egressguard", "blocked")
        return int(re.findall(r"packets (\d+)", listed)[0])

    def tables(self) -> list[str]:
        return self.nft("list", "tables").splitlines()

    def nft(self, *words: str) -> str:
        return self.world.router.run(["nft", *words]).stdout


@pytest.fixture
def router(fresh_world: World, tmp_path: Path) -> Router:
    return Router(fresh_world, tmp_path)


@contextmanager
def attacked(world: World, family: int, inside: str = "web") -> Iterator[None]:
    """No SYN to port 25 may be seen beyond the WAN interface while a web server tries all the time."""
    source = SynSource(world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), count=10_000_000, per_second=2000,
                       sources=[WEB2.addresses[family == 6]], destinations=[SOMEBODY4 if family == 4 else SOMEBODY6])
    with CountingSniffer(world.outside, "eth0", port=25) as beyond, \
            CountingSniffer(world.router, inside, port=25) as arriving:
        yield
        arriving.wait_for(arriving.count() + 200)
        assert source.stop() > 0
        assert beyond.stop() == 0, "SYNs leaked"


both_families = pytest.mark.parametrize("family", [4, 6])


def settled(site: Deployment) -> None:
    """The daemon has been there, and its last good file is written."""
    site.start_router().terminate()


@both_families
def test_a_boot_begins_with_the_sites_policy(router: Router, site: Deployment, family: int) -> None:
    settled(site)
    router.state = site.folder
    before = router.nft("-s", "list", "table", "inet", "egressguard")
    router.boots()
    assert router.nft("-s", "list", "table", "inet", "egressguard") == before
    assert RELAY.addresses[family == 6] in before
    with attacked(router.world, family):
        pass


def test_a_boot_in_mode_observe_blocks_nobody(router: Router, site: Deployment) -> None:
    site.amend('mode = "enforce"', 'mode = "observe"')
    settled(site)
    router.state = site.folder
    router.boots()
    with pytest.raises(AssertionError, match="SYNs leaked"), attacked(router.world, 4):
        pass


@pytest.mark.parametrize(("content", "family"), [(None, 4), ("", 6), ("table inet egressguard {", 4),
                                                 ("no nft\n# complete\n", 6)])
def test_without_a_good_file_the_rules_alone_block(router: Router, content: str | None, family: int) -> None:
    if content is not None:
        (router.state / FILE).write_text(content)
    router.boots()
    assert router.tables() == ["table inet egressguard"]
    with attacked(router.world, family):
        pass


@both_families
def test_without_any_file_the_fallback_blocks_until_rules_replace_it(router: Router, family: int) -> None:
    good = router.rules.read_bytes()
    router.rules.write_text("no nft\n")
    router.nft("flush", "ruleset")
    assert router.runs("egressguard-rules.service") != 0, "the unit shows as failed"
    assert router.tables() == ["table inet egressguard_fallback"]
    with attacked(router.world, family):
        router.rules.write_bytes(good)
        assert router.runs("egressguard-rules.service") == 0
    assert router.tables() == ["table inet egressguard"]


@both_families
def test_if_the_rules_unit_never_ran_the_fallback_unit_blocks(router: Router, family: int) -> None:
    assert router.runs("egressguard-fallback.service") == 0
    with attacked(router.world, family):
        assert router.runs("egressguard-fallback.service") == 0, "again"
    assert router.tables() == ["table inet egressguard_fallback"]


@both_families
def test_the_daemon_takes_over_from_the_fallback(router: Router, site: Deployment, family: int) -> None:
    router.runs("egressguard-fallback.service")
    code, status = site.status()
    assert code == 3
    assert "egressguard_fallback" in status["findings"][0]["text"]
    with attacked(router.world, family):
        site.start_router()
    assert router.tables() == ["table inet egressguard"]
    assert "egressguard_fallback" not in str(site.status()[1]["findings"])


@pytest.mark.parametrize(("older", "family"), [("ruleset_v0", 4), (OLDER, 6)])
def test_an_upgrade_replaces_the_table_of_the_version_before_at_once(router: Router, site: Deployment, older: str,
                                                                    family: int) -> None:
    """It goes on blocking until then, and history says what that costs."""
    text = older if older == OLDER else router.rules.read_text().replace(VERSION_CHAIN, older)
    assert text != router.rules.read_text()
    router.rules.write_text(text)
    router.boots()
    with attacked(router.world, family):
        site.start_router()
        wait_until(lambda: site.status()[1]["totals"]["attempts"] > 100, "counts in the new table")
    assert site.status()[1]["rules_intact"]
    assert "earlier version's" in site.egressguard("history").stdout


@both_families
def test_a_unit_that_starts_again_keeps_every_count(router: Router, family: int) -> None:
    router.boots()
    handle = router.nft("-a", "list", "tables")
    with attacked(router.world, family):
        router.starts_again()
    before = router.blocked()
    assert before > 0
    router.starts_again()
    assert router.blocked() == before, "while nobody tries any more"
    assert router.nft("-a", "list", "tables") == handle, "the same table"


@both_families
def test_a_stop_of_nftables_takes_every_other_table_and_opens_nothing(router: Router, family: int) -> None:
    router.boots()
    router.nft("add", "table", "inet", "site")
    router.nft("add", "table", "ip", "nat")
    with attacked(router.world, family):
        router.runs("nftables.conf", "ExecStop")
    assert router.tables() == ["table inet egressguard"]


@pytest.mark.parametrize(("key", "family"), [("ExecStart", 4), ("ExecReload", 6)])
def test_a_restart_of_nftables_flushes_everything_and_opens_nothing(router: Router, site: Deployment, key: str,
                                                                   family: int) -> None:
    settled(site)
    router.state = site.folder
    (router.state / "nftables.conf").write_text("flush ruleset\ntable inet site { }\n")
    router.boots()
    with attacked(router.world, family):
        for _ in range(10):
            assert router.runs("nftables.conf", key) == 0
    assert router.tables() == ["table inet site", "table inet egressguard"]


@pytest.mark.parametrize(("theirs", "good"), [("no nft\n", True), ("flush ruleset\n", False)])
def test_whatever_is_wrong_with_a_file_our_rules_stand_afterwards(router: Router, site: Deployment, theirs: str,
                                                                 good: bool) -> None:
    settled(site)
    router.state = site.folder
    (router.state / "nftables.conf").write_text(theirs)
    if not good:
        (router.state / FILE).write_text("cut short")
    router.boots()
    router.runs("nftables.conf")
    assert router.tables() == ["table inet egressguard"]


GUEST = "198.51.100.77"
PICTURES = ("flush ruleset\n{}", "{}", 'flush ruleset\ninclude "{}"\n')


@contextmanager
def pictured(router: Router, site: Deployment, kind: str) -> Iterator[None]:
    """nftables.conf is what `nft list ruleset` said while port 25 was open, for a guest and a sender more; all is over."""
    daemon = site.start_router()
    text = site.router_config.read_text()
    site.amend(f'"{RELAY.ipv4}"', f'"{RELAY.ipv4}", "192.0.2.33"')
    for words in (["apply"], ["open", "--for", "15m", "--reason", "r"], ["allow", GUEST, "--for", "1d", "--reason", "r"]):
        assert site.egressguard(*words).returncode == 0
    saved = site.folder / "saved.nft"
    saved.write_text(router.nft("list", "ruleset"))
    (site.folder / "nftables.conf").write_text(kind.format(saved if "include" in kind else saved.read_text()))
    site.router_config.write_text(text)
    for words in (["apply"], ["release", "--reason", "r"], ["release", GUEST, "--reason", "r"]):
        assert site.egressguard(*words).returncode == 0, words
    daemon.terminate()
    daemon.wait(30)
    router.state = site.folder
    yield


def opened(router: Router) -> list[str]:
    listed = router.nft("list", "table", "inet", "egressguard")
    return [word for word in ("192.0.2.33", GUEST, "expires") if word in listed]


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("good", [True, False])
def test_a_picture_of_the_rules_that_somebody_has_saved_opens_nothing_at_boot(router: Router, site: Deployment, kind: str,
                                                                            good: bool) -> None:
    with pictured(router, site, kind):
        if not good:
            (router.state / FILE).write_text("cut short")
        router.nft("flush", "ruleset")
        router.runs("nftables.conf")
        assert opened(router) == []
        with attacked(router.world, 4):
            pass


def test_mutant_that_keeps_the_picture_opens_port_25(router: Router, site: Deployment) -> None:
    script = router.program / "load-rules"
    mutant = script.read_text().replace('$(without_a_picture "$1")\n', "")
    assert mutant != script.read_text()
    script.write_text(mutant)
    with pictured(router, site, PICTURES[0]):
        router.nft("flush", "ruleset")
        router.runs("nftables.conf")
        assert opened(router) == ["192.0.2.33", GUEST, "expires"]
        with pytest.raises(AssertionError, match="SYNs leaked"), attacked(router.world, 4):
            pass


def test_a_file_that_leaves_our_table_alone_costs_no_count(router: Router, site: Deployment) -> None:
    settled(site)
    router.state = site.folder
    (router.state / "nftables.conf").write_text("table inet site { }\ndelete table inet site\ntable inet site { }\n")
    router.boots()
    with attacked(router.world, 4):
        router.runs("nftables.conf")
    before = router.blocked()
    assert before > 0
    assert router.runs("nftables.conf", "ExecReload") == 0
    assert router.blocked() == before


def test_mutant_that_loads_theirs_first_and_ours_afterwards_leaks(router: Router, site: Deployment) -> None:
    settled(site)
    router.state = site.folder
    (router.state / "nftables.conf").write_text("flush ruleset\n")
    script = router.program / "load-rules"
    mutant = script.read_text().replace("    if usable && nft -f - <<TRANSACTION", "    if false && nft -f - <<TRANSACTION")
    assert mutant != script.read_text()
    script.write_text(mutant)
    router.boots()
    with pytest.raises(AssertionError, match="SYNs leaked"), attacked(router.world, 4):
        for _ in range(10):
            router.runs("nftables.conf")


@both_families
def test_before_the_network_comes_up_something_stands_on_a_router_that_was_configured(router: Router, family: int) -> None:
    """The drop-in of whatever brings interfaces up, when neither unit has loaded anything."""
    router.runs("network.conf", "ExecStartPre")
    assert router.tables() == [], "installed and not configured: nothing is blocked"
    (router.state / "egressguard.toml").write_text("")
    with attacked(router.world, family):
        assert router.runs("network.conf", "ExecStartPre") == 0
    assert router.tables() == ["table inet egressguard_fallback"]
    (router.state / "egressguard.toml").unlink()
    router.boots()
    (router.state / FILE).write_text("whatever it says")
    router.runs("network.conf", "ExecStartPre")
    assert router.tables() == ["table inet egressguard"], "what stands is left alone"


def test_mutant_of_a_fallback_without_its_rule_leaks(router: Router) -> None:
    """The sniffer of these tests sees a leak when there is one."""
    script = router.program / "load-rules"
    mutant = script.read_text().replace("\t\tmeta l4proto tcp th dport 25 counter drop\n", "")
    assert mutant != script.read_text()
    script.write_text(mutant)
    router.runs("egressguard-fallback.service")
    with pytest.raises(AssertionError, match="SYNs leaked"), attacked(router.world, 4):
        pass


def test_mutant_that_replaces_the_fallback_in_two_steps_leaks(router: Router) -> None:
    """What the single transaction in load-rules is for: deleted first, loaded afterwards."""
    router.runs("egressguard-fallback.service")
    with pytest.raises(AssertionError, match="SYNs leaked"), attacked(router.world, 4):
        for _ in range(20):
            router.nft("delete", "table", "inet", "egressguard_fallback")
            router.runs("egressguard-fallback.service")


def test_init_writes_what_the_daemon_then_runs_with(site: Deployment) -> None:
    file = site.folder / "new" / "egressguard.toml"
    site.router_config = file
    done = site.egressguard("init", "--yes", "--no-start", "--sender", f"relay={RELAY.ipv4},{RELAY.ipv6}")
    assert done.returncode == 0, done.stderr
    assert "wan: outside, because a default route leads through it" in done.stdout
    assert "dmz: inside" in done.stdout
    again = site.egressguard("init", "--yes", "--no-start")
    assert (again.returncode, "--force" in again.stderr) == (4, True)
    assert site.egressguard("check").returncode == 0
    assert 'interfaces = ["web"]' in file.read_text()


def test_init_takes_routes_as_good_as_a_default_route_for_the_way_out(site: Deployment) -> None:
    site.router_config = site.folder / "new" / "egressguard.toml"
    site.world.router.ip("route del default", "route del ::/0", f"route add 2000::/3 via {OUTSIDE.ipv6}",
                         f"route add 0.0.0.0/1 via {OUTSIDE.ipv4}", f"route add 128.0.0.0/1 via {OUTSIDE.ipv4}")
    done = site.egressguard("init", "--yes", "--no-start", "--sender", f"relay={RELAY.ipv4},{RELAY.ipv6}")
    assert done.returncode == 0, done.stderr
    assert "wan: outside, because a default route leads through it, or routes as good as one" in done.stdout
    inside = tomllib.loads(site.router_config.read_text())["inside"]
    assert sorted(name for i in inside for name in i["interfaces"]) == ["dmz", "web"]


def test_init_without_an_inside_interface_changes_nothing(site: Deployment) -> None:
    site.router_config = site.folder / "new" / "egressguard.toml"
    done = site.egressguard("init", "--yes", "--no-start", "--outside", "dmz", "--outside", "web")
    assert done.returncode == 4
    assert "name those that hosts live behind: --inside INTERFACE" in done.stderr
    assert not site.router_config.exists()


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_every_unit_exposes_little(unit: str, root: None) -> None:
    """systemd's own measure; script/machine-test asks the installed ones."""
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", UNITS / unit],
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_shell_without_nft_fails_loudly(router: Router) -> None:
    with pytest.raises(LabError, match="load-rules"):
        router.world.router.run([router.program / "load-rules", "nonsense"])
