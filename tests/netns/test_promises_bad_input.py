"""Generated bad configurations and rule files: each is refused with file and reason while the kernel stays as it was. Of
the good ones among them the kernel holds afterwards what they say."""

import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from egressguard import kernel as kernel_seam
from egressguard.boot import boot_id, now_s
from egressguard.config import read_site
from egressguard.core import mistakes
from egressguard.core.errors import ConfigError, KernelError
from egressguard.core.tables import BRIDGE, LAST_LINE, ROUTER, Table
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.kernel import Netfilter, Ruleset, nft
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.ruleset import read_generation
from egressguard.upkeep import Upkeep
from lab.deployment import Deployment, router_config
from lab.firewall import RULES
from lab.namespaces import Namespace, wait_until
from tests.promises import promise

EXAMPLE = (Path(__file__).parents[2] / "docs/examples/egressguard.toml").read_text("utf-8")
# The example with what is commented in force, so that it is mutated too; what is no default needs more to be good.
CONFIG = re.sub(r"^# (\w+ = |\[\[)", r"\1", EXAMPLE, flags=re.MULTILINE).replace("/var/lib/egressguard", "/nowhere")
CONFIG = CONFIG.replace('relays = []                  # such as', 'relays = ["192.0.2.10"]  # such as')
VALUES = ['""', "0", "-1", "1e400", "nan", "inf", "true", "[]", "{}", "[[]]", '"\\u0000"', '"; flush ruleset"', '"25"',
          "99999999999999999999", '["192.0.2.10"]', '["2001:db8::/200"]', '["::ffff:192.0.2.10"]', "1979-05-27", '"é"',
          '["a b"]', '["dmz\\"; flush ruleset; #"]', "[25, 25]", "[65536]", "[true]", '"sqlite:relative"', '["0.0.0.0/0"]',
          '"observ"', '["192.0.2.10%eth0"]', '["fe80::1%dmz"]', '"$(reboot)"', '"\\n"', "[0]", '["."]']
WORDS = ["{ }", "accept", '"x"', "{ 70000 }", "@nothing", "{ type ipv4_addr; }", "{ type ifname; flags interval; }"]
OCTETS = ["\0", "\ufeff", "'", '"', "[", "]", "=", "\n", "é", "\x7f", "{", "}", ";", "#", "\\", "$x", "include \"/etc/passwd\"\n"]
ONE_OF_64 = re.compile(r"(known|shard)[46]\w* ")  # lines that are nearly alike: a few of them say as much as all
ONE_IN = 20


def lines_of(dice: random.Random, text: str) -> list[int]:
    lines = [(n, line) for n, line in enumerate(text.splitlines()) if line.strip() and not line.strip().startswith("#")]
    return [n for n, line in lines if not ONE_OF_64.search(line) or not dice.randrange(ONE_IN)]


def with_line(text: str, number: int, *lines: str) -> str:
    all_lines = text.splitlines()
    return "\n".join([*all_lines[:number], *lines, *all_lines[number + 1:]]) + "\n"


def mutated(dice: random.Random, text: str, values: list[str]) -> str:
    """One to three random changes."""
    for _ in range(dice.randint(1, 3)):
        text = mutated_once(dice, text, values)
    return text


def mutated_once(dice: random.Random, text: str, values: list[str]) -> str:
    """A line lost, doubled or changed; a value or an octet replaced; the end cut off."""
    number, at, kind = dice.choice(lines_of(dice, text) or [0]), dice.randrange(len(text) + 1), dice.randrange(8)
    line = (text.splitlines() or [""])[number]
    changed: list[str] = [
        with_line(text, number),
        with_line(text, number, line, line),
        with_line(text, number, re.sub(r"=.*", lambda _: f"= {dice.choice(values)}", line)),
        with_line(text, number, re.sub(r"\w+", dice.choice(["x", "", "mod", "25"]), line, count=1)),
        with_line(text, number, re.sub(r"\d+", lambda _: str(dice.choice([0, 7, 256, 65536, -1])), line)),
        text[:at] + dice.choice(OCTETS) + text[at:],
        text[:at] + text[at + 1:],
        text[:at],
    ]
    return changed[kind]


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def listed() -> str:
    """This network namespace's ruleset, without what packets count."""
    context = nft.context()
    context.set_stateless_output(True)
    return str(context.cmd("list ruleset")[1])


def take_over(config: Path, table: Table = ROUTER, *, loads: bool = True) -> tuple[bool, str]:
    """As the daemon does at its start and at a reload: whether the configuration is good, and why it or its rules were
    refused. Anything but a clear refusal is a defect and is raised. Without `loads` it ends before the rules.
    """
    kernel, database, good = Netfilter(), Database(None, boot_id()), False
    try:
        site = read_site(config)
        good = True
        if loads:
            enforced = (Enforcement(site, kernel, database, boot_id()) if table is ROUTER else
                        Upkeep(site, kernel.beside(table), database, boot_id(), table=table))
            enforced.load(now_s(), "a test")
    except (ConfigError, KernelError) as error:
        return good, str(error)
    finally:
        kernel.close()
        database.close()
    return good, ""


@dataclass
class Tally:
    """Of the generated: refused, with the kernel as it was before; and good."""

    bad: int = 0
    good: int = 0

    def __str__(self) -> str:
        return f"{self.bad} bad ones among {self.bad + self.good} generated"


def generation() -> int:
    """The number that every change of this network namespace's ruleset raises."""
    with closing(Netlink()) as netlink:
        return read_generation(netlink)


class Standing:
    """What stands in this network namespace: its generation, which every change raises, tells whether it is the same."""

    def __init__(self) -> None:
        self.take()

    def take(self) -> None:
        """From now on this is what should stand."""
        self._generation, self._listed = generation(), listed()

    def judge(self, why: str) -> None:
        """Raises AssertionError if anything has changed."""
        assert generation() == self._generation, f"refused, and yet the kernel changed: {why}"

    def judge_all(self, why: str) -> None:
        """The same by what is listed: the same rules loaded again are no change."""
        assert listed() == self._listed, f"refused, and yet the kernel changed: {why}"


def judge_refusal(path: Path, message: str) -> None:
    """Every line names the file, then a key or what keeps it from being read at all."""
    assert message
    for line in message.splitlines():
        assert line.startswith(f"{path}: "), message
        rest = line.removeprefix(f"{path}: ")
        if not rest.startswith("is not TOML: "):
            key, _, reason = rest.partition(": ")
            assert key
            assert reason, f"no reason: {line}"
    assert "Traceback" not in message


def judge_configurations(folder: Path, count: int, into_the_kernel: int) -> Tally:
    """Until so many were refused, where rules and elements stand; of the good ones the first reach the kernel."""
    dice, path, tally = random.Random(7), folder / "egressguard.toml", Tally()
    write(path, EXAMPLE)
    assert take_over(path) == (True, "")
    standing = Standing()
    while tally.bad < count:
        write(path, mutated(dice, CONFIG, VALUES))
        good, message = take_over(path, loads=tally.good < into_the_kernel)
        if good:
            judge_good(path, message, standing)
            tally.good += 1
        else:
            judge_refusal(path, message)
            standing.judge(message)
            tally.bad += 1
    standing.judge_all("one of them all")
    return tally


def judge_good(path: Path, message: str, standing: Standing) -> None:
    """What `check` calls good the kernel takes; only the rules it names may be missing."""
    if message:
        assert re.fullmatch(r"rules \S.*egressguard.nft: cannot be read: .*", message), path.read_text("utf-8") + message
        standing.judge(message)
    standing.take()


def site_with(rules: Path) -> str:
    """The lab's site with the rules of a folder."""
    return f'rules = "{rules}"\n{router_config()}'


@dataclass(frozen=True)
class Case:
    """A file of rules/, the configuration that asks for it, the table that it makes, and its part of all that are bad."""

    config: str
    table: Table
    share: float


RULE_FILES = {
    "egressguard.nft": Case("", ROUTER, 0.4),
    "bridge.nft": Case('[[bridge]]\nname = "br0"\nports = ["vnet*"]\nnetworks = ["192.0.2.128/26"]\n', BRIDGE, 0.25),
    "redirect.nft": Case('[redirect]\nrelays = ["192.0.2.10", "2001:db8:0:a::2"]\n[sinkhole]\nenabled = true\n', ROUTER, 0.15),
    "last_line.nft": Case('[last_line]\ninterfaces = ["wan"]\n', LAST_LINE, 0.1),
    "own_cgroup.nft": Case('[own]\nguard = true\ncgroups = ["mta"]\n', ROUTER, 0.1),
}


def judge_rules(folder: Path, name: str, count: int, harm: Callable[[], None] = lambda: None) -> Tally:
    """Until so many versions of the file were refused, where the right one stands; `harm` is done after that one."""
    dice, case, tally = random.Random(name), RULE_FILES[name], Tally()
    for path in RULES.parent.glob("*.nft"):
        shutil.copy(path, folder)
    config, rules = folder / "egressguard.toml", folder / name
    config.write_text(site_with(folder) + case.config)
    text = rules.read_text("utf-8")
    assert take_over(config, case.table) == (True, "")
    standing = Standing()
    harm()
    while tally.bad < count:
        write(rules, mutated(dice, text, WORDS))
        _, message = take_over(config, case.table)
        if message:
            tally.bad += 1
            standing.judge_all(message)
            # What a file lacks that was cut short between two statements is missed in the name of the table's own file.
            names = {re.escape(str(path)) for path in (rules, folder / case.table.file)}
            assert re.search(rf"({'|'.join(names)})\b.*: .", message), message
        else:
            tally.good += 1
            standing.take()
    return tally


@pytest.fixture
def router(root: None) -> Iterator[Namespace]:
    with Namespace("router") as namespace:
        namespace.ip("link add wan type bridge")  # for the last line to stand on
        yield namespace


def test_the_good_ones_are_good(tmp_path: Path, router: Namespace) -> None:
    """Nothing would be learned from changes to a bad one."""
    write(tmp_path / "good.toml", CONFIG)
    assert router.call(take_over, tmp_path / "good.toml", loads=False) == (True, "")
    assert RULE_FILES.keys() == {path.name for path in RULES.parent.glob("*.nft")}, "every file of rules/ is changed"


def test_bad_configurations_are_refused_by_file_and_key_and_change_nothing(
        tmp_path: Path, router: Namespace, full: bool) -> None:
    count = 9000 if full else 300
    tally = router.call(judge_configurations, tmp_path, count, 200 if full else 10)
    promise(11, "generated bad configurations refused with file and key, the kernel's generation as before", tally.bad, count,
            str(tally))


def test_bad_rule_files_are_refused_by_file_and_reason_and_change_nothing(
        tmp_path: Path, router: Namespace, full: bool) -> None:
    count = 1000 if full else 60
    tallies = {name: router.call(judge_rules, tmp_path, name, int(case.share * count)) for name, case in RULE_FILES.items()}
    promise(11, "generated bad rule files refused with file and reason, the ruleset as before",
            sum(tally.bad for tally in tallies.values()), count,
            ", ".join(f"{name}: {tally}" for name, tally in tallies.items()))


def test_a_running_daemon_refuses_bad_configurations_one_after_the_other(site: Deployment, full: bool) -> None:
    """The same at its reload, with the log as the only place to complain."""
    router, dice, good = site.start_router(), random.Random(9), site.router_config.read_text()
    before, refused, count = site.world.router.call(listed), 0, 200 if full else 10
    while refused < count:
        write(site.router_config, mutated(dice, good, VALUES))
        if take_over(site.router_config, loads=False)[0]:
            continue
        router.send_signal(signal.SIGHUP)
        refused += 1
        wait_until(lambda due=refused: site.log("egressguard").count("not reloaded") >= due, "the complaint")  # type: ignore[misc]
        assert site.world.router.call(listed) == before
    site.router_config.write_text(good)
    assert site.status()[0] == 0
    promise(11, "bad configurations refused by a running daemon at SIGHUP, the ruleset as before", refused, count,
            f"{count} reloads")


def test_rules_that_do_not_empty_their_chains_are_not_doubled(tmp_path: Path, router: Namespace) -> None:
    config, rules = tmp_path / "egressguard.toml", tmp_path / "egressguard.nft"
    config.write_text(site_with(tmp_path))
    rules.write_text(re.sub(r"^flush chain .*\n", "", RULES.read_text("utf-8"), flags=re.MULTILINE))
    assert router.call(take_over, config) == (True, "")
    once = router.call(listed)
    assert router.call(take_over, config) == (True, "")
    assert router.call(listed) == once


def test_mutant_a_name_that_is_not_checked_is_noticed(
        tmp_path: Path, router: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "interface_mistakes", lambda key, names: ())
    path, number = tmp_path / "egressguard.toml", CONFIG.splitlines().index('interfaces = ["dmz"]')

    def judge_every_value() -> None:
        standing = Standing()
        for value in VALUES:
            write(path, with_line(CONFIG, number, f"interfaces = {value}"))
            good, message = take_over(path)
            if good:
                judge_good(path, message, standing)

    with pytest.raises(AssertionError):
        router.call(judge_every_value)


def test_mutant_a_configuration_that_is_tried_out_in_the_kernel_is_noticed(
        tmp_path: Path, router: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_site

    def read_too_late(path: Path) -> object:
        nft.apply("add table inet half; delete table inet half", "the mutant")
        return read(path)

    monkeypatch.setitem(globals(), "read_site", read_too_late)
    with pytest.raises(AssertionError, match="kernel changed"):
        router.call(judge_configurations, tmp_path, 10, 0)


@pytest.mark.parametrize("name", RULE_FILES)
def test_mutant_a_load_in_two_steps_is_noticed(
        tmp_path: Path, router: Namespace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = nft.apply

    def in_two_steps(transaction: str, what: str, owner: object = None) -> None:
        whole("flush ruleset\nadd table inet half", what)
        whole(transaction, what)

    def harm() -> None:
        monkeypatch.setattr(nft, "apply", in_two_steps)
        monkeypatch.setattr(kernel_seam, "expected_ruleset", lambda rules: Ruleset(0, False, frozenset(), {}, ""))

    with pytest.raises(AssertionError, match="kernel changed"):
        router.call(judge_rules, tmp_path, name, 40, harm)
