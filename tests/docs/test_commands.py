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
PROGRAMS = {"egressguard": router, "egressguard-milter": relay}
EXAMPLES = {"egressguard": ROUTER_EXAMPLES, "egressguard-milter": RELAY_EXAMPLES}
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in documents()}
COMMANDS = {name: list(commands(name, text)) for name, text in DOCUMENTS.items()}
OURS = sorted({(name, text) for name, document in DOCUMENTS.items() for text in inline(document)})


def elsewhere(command: Command) -> bool:
    return command.text in ELSEWHERE


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("document", [name for name in COMMANDS if not all(map(elsewhere, COMMANDS[name]))])
def test_every_command_of_a_document_works(document: str, tmp_path: Path) -> None:
    with ExampleSite(tmp_path) as site:
        for command in COMMANDS[document]:
            if not elsewhere(command):
                site.run(command)


def test_every_exception_stands_in_a_document() -> None:
    written = {command.text for found in COMMANDS.values() for command in found}
    assert all(text in written or text in str(EXAMPLES) for text in ELSEWHERE)
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
def test_a_wrong_command_in_a_document_is_found(tmp_path: Path) -> None:
    """Mutants: a document with one of them would fail."""
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
