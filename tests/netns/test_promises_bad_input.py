"""Generated bad configurations and rule files: each is refused with file and reason and the kernel stays as it was,
or it is good and then the kernel holds exactly what it says."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard import kernel as kernel_seam
from egressguard.boot import boot_id, now_s
from egressguard.config import read_site
from egressguard.core import settings
from egressguard.core.errors import ConfigError, KernelError
from egressguard.database import Database
from egressguard.enforcement import Enforcement
from egressguard.kernel import Netfilter, Ruleset, nft
from lab.firewall import RULES
from lab.namespaces import Namespace
from tests.promises import promise

EXAMPLE = (Path(__file__).parents[2] / "docs/examples/egressguard.toml").read_text("utf-8")
# The example with what is commented in force, so that it is mutated too; what is no default needs more to be good.
CONFIG = re.sub(r"^# (\w+ = |\[\[)", r"\1", EXAMPLE, flags=re.MULTILINE).replace("/var/lib/egressguard", "/nowhere")
CONFIG = CONFIG.replace('relays = []                  # such as', 'relays = ["192.0.2.10"]  # such as')
TEXT = RULES.read_text("utf-8")
VALUES = ['""', "0", "-1", "1e400", "nan", "inf", "true", "[]", "{}", "[[]]", '"\\u0000"', '"; flush ruleset"', '"25"',
          "99999999999999999999", '["192.0.2.10"]', '["2001:db8::/200"]', '["::ffff:192.0.2.10"]', "1979-05-27", '"é"',
          '["a b"]', '["dmz\\"; flush ruleset; #"]', "[25, 25]", "[65536]", "[true]", '"sqlite:relative"', '["0.0.0.0/0"]',
          '"observ"', '["192.0.2.10%eth0"]', '["fe80::1%dmz"]', '"$(reboot)"', '"\\n"', "[0]", '["."]']
WORDS = ["{ }", "accept", '"x"', "{ 70000 }", "@nothing", "{ type ipv4_addr; }", "{ type ifname; flags interval; }"]
OCTETS = ["\0", "\ufeff", "'", '"', "[", "]", "=", "\n", "é", "\x7f", "{", "}", ";", "#", "\\", "$x", "include \"/etc/passwd\"\n"]


def lines_of(text: str) -> list[int]:
    return [n for n, line in enumerate(text.splitlines()) if line.strip() and not line.strip().startswith("#")]


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
    number, at, kind = dice.choice(lines_of(text) or [0]), dice.randrange(len(text) + 1), dice.randrange(8)
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


def why_refused(path: Path) -> str | None:
    """The message; None for a good file. Anything but a ConfigError is a defect and is raised."""
    try:
        read_site(path)
    except ConfigError as error:
        return str(error)
    return None


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def judge_refusal(path: Path, message: str) -> None:
    """Every line names the file, then a key or what keeps it from being read at all."""
    for line in message.splitlines():
        assert line.startswith(f"{path}: "), message
        rest = line.removeprefix(f"{path}: ")
        if not rest.startswith("is not TOML: "):
            key, _, reason = rest.partition(": ")
            assert key
            assert reason, f"no reason: {line}"
    assert "Traceback" not in message


def listed(host: Namespace) -> str:
    return host.run(["nft", "-s", "list", "ruleset"]).stdout


@pytest.fixture
def router(root: None) -> Iterator[Namespace]:
    with Namespace("router") as namespace:
        yield namespace


def take_over(config: Path) -> str | None:
    """As the daemon does at its start and at a reload; why it was refused, or None."""
    kernel, database = Netfilter(), Database(None, boot_id())
    try:
        site = read_site(config)
        Enforcement(site, kernel, database, boot_id()).load(now_s(), "a test")
    except (ConfigError, KernelError) as error:
        return str(error)
    finally:
        kernel.close()
        database.close()
    return None


def judge_configurations(folder: Path, router: Namespace, count: int, into_the_kernel: int) -> int:
    """How many of the generated configurations were refused; of the good ones the first reach the kernel."""
    dice, path, refused = random.Random(7), folder / "egressguard.toml", 0
    for _ in range(count):
        write(path, mutated(dice, CONFIG, VALUES))
        message = why_refused(path)
        if message is not None:
            judge_refusal(path, message)
            refused += 1
        elif into_the_kernel:
            into_the_kernel -= 1
            judge_good(router, path)
    return refused


def judge_good(router: Namespace, path: Path) -> None:
    """What `check` calls good the kernel takes; only the rules it names may be missing."""
    before = listed(router)
    message = router.call(take_over, path)
    if message is not None:
        assert re.fullmatch(r"rules \S.*egressguard.nft: cannot be read: .*", message), path.read_text("utf-8") + message
        assert listed(router) == before


def judge_rules(folder: Path, router: Namespace, count: int) -> int:
    """How many of the generated rule files were refused."""
    dice, rules, refused = random.Random(8), folder / "egressguard.nft", 0
    config = folder / "egressguard.toml"
    config.write_text(EXAMPLE.replace('# rules = ""', f'rules = "{folder}"'))
    before = listed(router)
    for _ in range(count):
        write(rules, mutated(dice, TEXT, WORDS))
        message, after = router.call(take_over, config), listed(router)
        if message is not None:
            refused += 1
            assert str(rules) in message
            assert after == before, f"refused, and yet the kernel changed: {message}"
        before = after
    return refused


def test_generated_configurations_are_refused_by_name_or_good(tmp_path: Path, router: Namespace, full: bool) -> None:
    count = 9000 if full else 400
    write(tmp_path / "good.toml", CONFIG)
    assert why_refused(tmp_path / "good.toml") is None, "nothing would be learned from changes to a bad one"
    refused = judge_configurations(tmp_path, router, count, 200 if full else 10)
    assert refused > count / 2
    promise(11, "generated configurations that are refused with file and key, or good", count, count,
            f"{count}, {refused} of them refused")


def test_generated_rule_files_are_refused_and_change_nothing_or_are_good(
        tmp_path: Path, router: Namespace, full: bool) -> None:
    count = 1000 if full else 40
    refused = judge_rules(tmp_path, router, count)
    assert refused > count / 4
    promise(11, "generated rule files that are refused with file and reason and leave the kernel as it was, or good",
            count, count, f"{count}, {refused} of them refused")


def test_rules_that_do_not_empty_their_chains_are_not_doubled(tmp_path: Path, router: Namespace) -> None:
    config, rules = tmp_path / "egressguard.toml", tmp_path / "egressguard.nft"
    config.write_text(EXAMPLE.replace('# rules = ""', f'rules = "{tmp_path}"'))
    rules.write_text(re.sub(r"^flush chain .*\n", "", TEXT, flags=re.MULTILINE))
    assert router.call(take_over, config) is None
    once = listed(router)
    assert router.call(take_over, config) is None
    assert listed(router) == once


def test_mutant_a_name_that_is_not_checked_is_noticed(
        tmp_path: Path, router: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "interface_mistakes", lambda key, names: ())
    path, number = tmp_path / "egressguard.toml", CONFIG.splitlines().index('interfaces = ["dmz"]')
    with pytest.raises(AssertionError):
        for value in VALUES:
            write(path, with_line(CONFIG, number, f"interfaces = {value}"))
            if why_refused(path) is None:
                judge_good(router, path)


def test_mutant_a_load_in_two_steps_is_noticed(
        tmp_path: Path, router: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nft.apply

    def in_two_steps(transaction: str, what: str, owner: object = None) -> None:
        whole("flush ruleset\nadd table inet half", what)
        whole(transaction, what)

    monkeypatch.setattr(nft, "apply", in_two_steps)
    monkeypatch.setattr(kernel_seam, "expected_ruleset", lambda rules: Ruleset(0, False, frozenset(), {}, ""))
    with pytest.raises(AssertionError, match="kernel changed"):
        judge_rules(tmp_path, router, 40)
