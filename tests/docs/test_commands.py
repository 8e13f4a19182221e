"""Every command in every document is executed, in the order of its document, on the example site."""

import re
from pathlib import Path

import pytest

from egressguard.cli import cli as router
from egressguard.cli.examples import EXAMPLES as ROUTER_EXAMPLES
from egressguard.command_line import commands_of
from egressguard_milter.cli import cli as relay
from egressguard_milter.examples import EXAMPLES as RELAY_EXAMPLES
from tests.docs.reading import ROOT, Command, commands, documents, inline, unmarked
from tests.docs.site import ExampleSite

# What cannot run here, with the reason; each is executed by the test that is named.
ELSEWHERE = {
    "script/test": "runs this test",
    "script/demo": "tests/netns/test_demo.py",
    "script/package dist": "tests/machine/conftest.py",
    "script/machine-test trixie": "runs tests/machine",
    "apt install ./dist/egressguard_*.deb": "tests/machine/test_packages.py",
    "apt install ./dist/egressguard-milter_*.deb": "tests/machine/test_packages.py",
    "egressguard init": "asks a person; tests/netns/test_units.py, tests/machine/test_packages.py",
    "egressguard-milter init": "asks a person; tests/relay/test_init.py",
    "egressguard status --watch": "tests/netns/test_watch.py",
}
# Commands within a sentence that no block executes, each with the reason.
INLINE = {
    "script/bench": "minutes to hours; script/test runs its parts in tests/unit and tests/netns",
    "script/test": "runs this test",
    "script/machine-test": "runs tests/machine",
    "man ": "tests/unit/test_manpages.py renders all four",
    "vagrant ": "boots machines; script/lint validates the file, tests/netns/test_provision.py provisions",
    "systemctl edit": "opens an editor; tests/netns/test_provision.py writes such a drop-in",
    "systemctl stop nftables": "tests/machine/test_boot.py, and its command in tests/netns/test_units.py",
    "systemd-analyze security": "tests/machine/test_packages.py",
    "nft flush ruleset": "what others do; tests/netns/test_promises_foreign.py",
    "nft -j list set": "what is not done any more, as a measure",
    "nft list ruleset": "to look through; tests/netns/test_firewall.py",
    "postconf -d": "where figures of Postfix come from; not to be typed",
    "exim -bp": "the lab has no Exim; what is said of it is what `egressguard mta-config` prints",
    "sendmail -bd": "lab/sendmail.py, in tests/relay/test_howto.py",
    "makemap hash": "lab/sendmail.py, in tests/relay/test_howto.py",
}
PROGRAMS = {"egressguard": router, "egressguard-milter": relay}
EXAMPLES = {"egressguard": ROUTER_EXAMPLES, "egressguard-milter": RELAY_EXAMPLES}
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in documents()}
COMMANDS = {name: list(commands(name, text)) for name, text in DOCUMENTS.items()}
QUOTED = sorted({(name, text) for name, document in DOCUMENTS.items() for text in inline(document)})
OURS = [(name, text) for name, text in QUOTED if text.split()[0] in ("egressguard", "egressguard-milter")]


def elsewhere(command: Command) -> bool:
    return command.text in ELSEWHERE or command.text.startswith("script/test ")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("document", [name for name in COMMANDS if not all(map(elsewhere, COMMANDS[name]))])
def test_every_command_of_a_document_works(document: str, tmp_path: Path) -> None:
    with ExampleSite(tmp_path) as site:
        for command in COMMANDS[document]:
            if not elsewhere(command):
                site.run(command)


def test_every_exception_stands_in_a_document() -> None:
    assert all(text in WRITTEN or text in str(EXAMPLES) for text in ELSEWHERE)
    assert len(ELSEWHERE) <= 12, "exceptions are few"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_command_hides_in_an_unmarked_block(document: str) -> None:
    assert unmarked(DOCUMENTS[document]) == []


@pytest.mark.parametrize(("document", "text"), OURS)
def test_a_command_within_a_sentence_exists(document: str, text: str) -> None:
    """Its command, and every option in it; what stands for something (HOST, FILE, …) may be anything."""
    program, *words = re.sub(r"[|>].*", "", text).split()
    known = commands_of(PROGRAMS[program])
    command = known.get(" ".join(words[:2])) or known.get(words[0])
    assert command is not None, f"{document}: {text}: there is no such command"
    options = {option for parameter in command.params for option in parameter.opts}
    for option in [word.split("=")[0] for word in words if word.startswith("--")]:
        assert option in options, f"{document}: {text}: there is no {option}"


WRITTEN = {command.text for found in COMMANDS.values() for command in found}


def executed(text: str) -> bool:
    """Whether a block executes it, or it is one of the few that have a reason."""
    return any(command.startswith(text) for command in WRITTEN) or any(text.startswith(start) for start in INLINE)


@pytest.mark.parametrize(("document", "text"), [pair for pair in QUOTED if pair not in OURS and pair[0] != "CHANGELOG.md"])
def test_a_command_of_others_within_a_sentence_is_executed_by_a_block_too(document: str, text: str) -> None:
    assert executed(text), f"{document}: `{text}`: put it into a block, or say in INLINE why it cannot run"


def test_every_reason_is_for_a_command_that_no_block_executes() -> None:
    for start in INLINE:
        assert any(text.startswith(start) for _, text in QUOTED), f"INLINE: nobody writes {start!r} any more"
    assert len(INLINE) <= 15, "exceptions are few"


def test_a_command_that_nothing_executes_is_found() -> None:
    """Mutants: a block of no language, a command in a block of another one, a command in a sentence."""
    assert unmarked("```\nanything\n```\n")
    assert unmarked("```text\nopenssl x509 -text\n```\n")
    assert unmarked("```ini\n$ ip route add default via 192.0.2.1\n```\n")
    assert unmarked("```toml\nmail = 1\n```\n```text\n  web server ── port 25\n```\n") == []
    assert inline("say `ip route flush\ncache`, not `ip`") == ["ip route flush cache"]
    assert not executed("ip route flush cache")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_example_in_the_help_works(program: str, tmp_path: Path) -> None:
    text = "\n".join(line.strip() for lines in EXAMPLES[program].values() for line in lines.strip().splitlines())
    with ExampleSite(tmp_path) as site:
        for command in commands(f"{program} --help", f"```sh\n{text}\n```\n"):
            if not elsewhere(command):
                site.run(command)


WRONG = ["egressguard stauts", "egressguard hosts --wuold-block", "egressguard status  # exit code 3", "nft lisst tables",
         "egressguard-milter status --confg x", "systemctl restart egresguard", "egressguard history wbe2"]


@pytest.mark.usefixtures("root")
def test_a_wrong_command_in_a_document_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants: a document with one of them would fail."""
    monkeypatch.setattr("tests.docs.site.SETTLES_S", 2.0)  # nothing will: it is looked at twice
    with ExampleSite(tmp_path) as site:
        for wrong in WRONG:
            [command] = commands("wrong.md", f"# Title\n\n```sh\n{wrong}\n```\n")
            with pytest.raises(AssertionError, match=r"wrong\.md"):
                site.run(command)


def test_a_block_is_read_command_by_command() -> None:
    text = ("```sh web2\n# a remark\nfirst --one \\\n    --two   # and why; exit code 4\n"
            "cat >/tmp/x <<'END'\nkey = 1 # kept\nEND\n```\n```toml\nno = 1\n```\n")
    assert list(commands("d", text)) == [
        Command("d", "first --one --two", "web2", 4),
        Command("d", "cat >/tmp/x <<'END'\nkey = 1 # kept\nEND", "web2", 0)]
