"""The man pages: complete, free of mistakes for three readers of roff, the same bytes each time."""

import re
import subprocess
from pathlib import Path

import click
import pytest

from egressguard.cli import cli as router
from egressguard.command_line import commands_of
from egressguard.core.settings import Settings
from egressguard_milter.cli import cli as relay
from egressguard_milter.policy import Policy
from manpages.__main__ import pages
from manpages.files import file_page, keys
from manpages.roff import escaped, paragraph

ROOT = Path(__file__).parents[2]
# The same source gives the same bytes, so no day stands on the page.
KNOWN = 'missing date, using ""'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")
    return folder


def plain(page: str) -> str:
    return re.sub(r"\\f[BR]", "", page).replace("\\-", "-").replace("\\&", "").replace("\\(aq", "'")


@pytest.mark.parametrize(("page", "group"), [("egressguard.8", router), ("egressguard-milter.8", relay)])
def test_every_command_and_option_is_named(page: str, group: click.Group) -> None:
    text = plain(pages()[page])
    program = page.removesuffix(".8")
    for name, command in commands_of(group).items():
        section = text.partition(f'.SS "{program} {name} ')[2].partition("\n.S")[0]
        assert section, f"{page} lacks {name}"
        for option in [o for p in command.params if isinstance(p, click.Option) for o in p.opts]:
            assert re.search(rf"{option}\b", section), f"{page}: {name} lacks {option}"
        assert command.get_short_help_str(200)[:40].replace("`", "") in re.sub(r"\s+", " ", section)


@pytest.mark.parametrize(("page", "kind"), [("egressguard.toml.5", Settings), ("egressguard-milter.toml.5", Policy)])
def test_every_key_is_named(page: str, kind: type) -> None:
    text = plain(pages()[page])
    assert [key for key in keys(kind) if not re.search(rf"\b{key}\b", text)] == []


def test_a_key_that_the_sample_does_not_describe_is_an_error(tmp_path: Path) -> None:
    """A mutant: the sample without a line."""
    sample = (ROOT / "docs/examples/egressguard.toml").read_text()
    assert "signal_lifetime_s" in sample
    mutant = tmp_path / "egressguard.toml"
    mutant.write_text(sample.replace("signal_lifetime_s", "signal_lifetime"))
    with pytest.raises(SystemExit, match="does not describe signal_lifetime_s"):
        file_page("/etc/egressguard.toml", "x", Settings, mutant, "1", "x")


@pytest.mark.parametrize("name", pages())
def test_no_reader_of_roff_finds_a_mistake(folder: Path, name: str) -> None:
    for command in (["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-Tutf8", "-man", "-ww", "-z"],
                    ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]):
        done = subprocess.run([*command, folder / name], text=True, capture_output=True, check=False)
        said = (done.stdout if command[0] == "mandoc" else "") + done.stderr
        assert [line for line in said.splitlines() if KNOWN not in line] == [], command


@pytest.mark.parametrize("name", pages())
def test_a_page_fits_a_terminal(folder: Path, name: str) -> None:
    shown = subprocess.run(["man", "-l", folder / name], text=True, capture_output=True, check=True,
                           env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}).stdout
    assert "NAME" in shown
    folded = [line for line in shown.splitlines() if len(line) > 80 and not line.startswith("           ")]
    assert folded == [], "only examples, which stand as they are typed, may be longer"


def test_the_pages_are_the_same_each_time() -> None:
    assert pages() == pages()


@pytest.mark.parametrize("nasty", [".so /etc/passwd", "'br", "\\fB", 'a "quote"', "`code`", "ends with \\"])
def test_no_text_becomes_a_macro(nasty: str) -> None:
    shown = subprocess.run(["mandoc", "-T", "utf8"], input='.TH "X" 8 "" ""\n.SH "X"\n' + paragraph(nasty), text=True,
                           capture_output=True, check=True).stdout
    assert nasty.replace("`", "") in re.sub(".\b", "", shown)
    assert escaped(nasty)
