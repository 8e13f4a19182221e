"""The surface of both commands: help with examples, suggestions, completion in real shells, no traceback."""

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import click
import pytest

from egressguard.cli import cli as router
from egressguard.cli.examples import EXAMPLES
from egressguard.command_line import SHELLS, commands_of
from egressguard_milter.cli import cli as relay
from egressguard_milter.examples import EXAMPLES as RELAY_EXAMPLES

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".venv/bin"
EXAMPLE = ROOT / "docs/examples/egressguard.toml"
COMMANDS = {f"egressguard {name}": command for name, command in commands_of(router).items()} | {
    f"egressguard-milter {name}": command for name, command in commands_of(relay).items()}
# They print something for another program, or change something; every other command is a noun.
NO_JSON = {"apply", "confirm", "run", "allow", "quarantine", "open", "release", "mta-config", "completion", "import",
           "exchange-setup", "exchange", "exchange forget", "init"}


def run(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = words
    return subprocess.run([PROGRAMS / str(program), *arguments], text=True, capture_output=True, check=False,
                          cwd=ROOT, env={**os.environ, **more})


def unprivileged(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin"]
    else:
        prefix = []
    return subprocess.run([*prefix, PROGRAMS / program, *arguments], text=True, capture_output=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_and_every_command_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.get_short_help_str()
    assert "Examples:" in (command.epilog or ""), f"add a line for {name} to the examples.py of its command line"
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("words", [["egressguard"], ["egressguard", "exchange"], ["egressguard-milter"]])
def test_every_summary_is_whole_at_80_columns(words: list[str]) -> None:
    _, _, summaries = run(*words, "--help", COLUMNS="80").stdout.partition("Commands:\n")
    assert summaries
    assert [line for line in summaries.splitlines() if line.endswith("...") or len(line) > 80] == []


@pytest.mark.parametrize(("group", "examples", "program"), [
    (router, EXAMPLES, "egressguard"), (relay, RELAY_EXAMPLES, "egressguard-milter")])
def test_examples_are_of_existing_commands(group: click.Group, examples: dict[str, str], program: str) -> None:
    assert examples.keys() <= commands_of(group).keys()
    for name, text in examples.items():
        assert all(line.strip().startswith(f"{program} {name}") or isinstance(commands_of(group)[name], click.Group)
                   for line in text.strip().splitlines()), name


@pytest.mark.parametrize("name", [n for n in COMMANDS if n.partition(" ")[2] not in NO_JSON])
def test_every_noun_speaks_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations by which nothing of this machine is read or reached."""
    folder = tmp_path_factory.mktemp("site")
    inside = '[[inside]]\ninterfaces = ["dmz"]\nnetworks = ["192.0.2.0/26"]\n'
    (folder / "egressguard.toml").write_text(
        f'database = "{folder}/none.db"\nexchange = "sqlite:{folder}/none/exchange.db"\n{inside}'
        '[notify]\ncommand = ["/nowhere/at-all"]\n')
    (folder / "egressguard-milter.toml").write_text(f'state = "{folder}/state"\n')
    return folder


ARGUMENTS = {"egressguard explain": ["192.0.2.7"], "egressguard replay": ["/nowhere.csv"],
             "egressguard-milter explain": ["192.0.2.7"], "egressguard-milter forgive": ["192.0.2.7"],
             "egressguard-milter check": ["--postfix", "/nowhere"]}
NOUNS = [n for n in COMMANDS if n.partition(" ")[2] not in NO_JSON]


@pytest.mark.parametrize("config", ["", "missing-"])
@pytest.mark.parametrize("name", [*NOUNS, "egressguard notify --test"])
def test_whoever_asks_for_json_gets_json_whatever_happens(name: str, config: str, site: Path) -> None:
    program, *words = name.split()
    done = unprivileged(program, *words, *ARGUMENTS.get(name, []), "--json",
                        "--config", str(site / f"{config}{program}.toml"))
    answer = json.loads(done.stdout)
    assert done.returncode in range(5)
    if done.stderr:
        assert (answer["error"] in done.stderr.replace(f"{program}: ", "")), done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_command_line_is_answered_in_json_too() -> None:
    done = run("egressguard", "history", "--json", "--limit", "0")
    assert (done.returncode, list(json.loads(done.stdout))) == (4, ["error"])


def test_nobody_reads_the_error_in_json() -> None:
    done = subprocess.run([PROGRAMS / "egressguard", "history", "--json", "--limit", "0"], text=True, check=False,
                          stdout=_closed_pipe(), stderr=subprocess.PIPE)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("words", "meant"), [
    (["egressguard", "statsu"], "status"), (["egressguard-milter", "reloat"], "reload"),
    (["egressguard", "hosts", "--would-blok"], "--would-block"),
    (["egressguard-milter", "clients", "--cuont", "3"], "--count"),
    (["egressguard", "history", "wbe2", "--config", str(EXAMPLE)], "web2"),
    (["egressguard", "--config", "x", "history"], "No such option"),
    (["egressguard", "mta-config", "--mta", "postfx", "--role", "relay"], "postfix"),
])
def test_a_typo_gets_a_suggestion(words: list[str], meant: str) -> None:
    done = run(*words)
    assert done.returncode in (2, 4)
    assert meant in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", ["egressguard.toml", "nope.toml"])
@pytest.mark.parametrize("words", [["egressguard", "status"], ["egressguard-milter", "check-config"]])
def test_a_missing_configuration_is_named_with_the_page_of_its_keys(words: list[str], file: str, tmp_path: Path) -> None:
    missing = tmp_path / file
    done = run(*words, "--config", missing)
    assert f"{missing}: cannot be read: No such file or directory" in done.stderr
    assert f"`{words[0]} init` does; every key: man {words[0]}.toml)" in done.stderr


@pytest.mark.parametrize("limit", ["0", "-5", "many"])
def test_history_of_no_line_is_refused_and_not_taken_for_all_or_for_an_empty_one(limit: str) -> None:
    done = run("egressguard", "history", "--limit", limit, "--config", EXAMPLE)
    assert (done.returncode, done.stdout) == (4, "")
    assert "--limit" in done.stderr


@pytest.mark.parametrize("program", ["egressguard", "egressguard-milter"])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_accepts_the_completion(program: str, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(run(program, "completion", shell).stdout)
    assert program in script.read_text()
    done = subprocess.run([shell, "-n", script], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


TYPED = [("egressguard", "stat", "status"), ("egressguard", "hosts --would", "--would-block"), ("egressguard-milter", "forg", "forgive"),
         ("egressguard", f"history --config {EXAMPLE} web", "web2")]
WITH_OURS = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}


def completion_file(program: str, shell: str, folder: Path, name: str) -> Path:
    script = folder / name
    script.write_text(run(program, "completion", shell).stdout)
    return script


@pytest.mark.parametrize(("program", "typed", "wanted"), TYPED)
def test_a_real_bash_completes_commands_options_and_hosts(program: str, typed: str, wanted: str, tmp_path: Path) -> None:
    script = completion_file(program, "bash", tmp_path, "completion")
    words, count = " ".join(f"'{word}'" for word in [program, *typed.split()]), len(typed.split())
    done = subprocess.run(["bash", "-c", (
        f". {script}; COMP_WORDS=({words}); COMP_CWORD={count}; _{program.replace('-', '_')}_completion {program}; "
        'echo "${COMPREPLY[@]}"')], text=True, capture_output=True, check=False, env={**os.environ, **WITH_OURS})
    assert wanted in done.stdout.split(), f"{typed}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(("program", "typed", "wanted"), TYPED)
def test_a_real_fish_completes_them_from_its_folder(program: str, typed: str, wanted: str, tmp_path: Path) -> None:
    """As the package lays it: fish loads the file of the command's name when it is first completed."""
    completion_file(program, "fish", tmp_path, f"{program}.fish")
    done = subprocess.run(["fish", "--no-config", "-c", f"set fish_complete_path {tmp_path}; complete -C '{program} {typed}'"],
                          text=True, capture_output=True, check=False, env={**os.environ, **WITH_OURS, "HOME": str(tmp_path)})
    assert wanted in [line.split("\t")[0] for line in done.stdout.splitlines()], f"{typed}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(("program", "typed", "wanted"), TYPED)
def test_a_real_zsh_completes_them_at_its_prompt(program: str, typed: str, wanted: str, tmp_path: Path) -> None:
    """As the package lays it: compinit finds the file in a folder of $fpath; the Tab is pressed on a terminal."""
    completion_file(program, "zsh", tmp_path, f"_{program}")
    (tmp_path / ".zshrc").write_text(f"fpath=({tmp_path} $fpath)\nautoload -U compinit\ncompinit -u -D\nPS1='ready> '\n")
    terminal, end = pty.openpty()
    with subprocess.Popen(["zsh", "-i"], stdin=end, stdout=end, stderr=end, start_new_session=True, env={
            **os.environ, **WITH_OURS, "ZDOTDIR": str(tmp_path), "TERM": "dumb", "HOME": str(tmp_path), "COLUMNS": "300"}) as zsh:
        os.close(end)
        try:
            read_until(terminal, "ready> ")
            os.write(terminal, f"{program} {typed}\t".encode())
            said = read_until(terminal, wanted)
            assert wanted in said.split(), said
        finally:
            zsh.kill()
            os.close(terminal)


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows until `text` is there."""
    said = ""
    while text not in said and select.select([terminal], [], [], 30)[0]:
        said += os.read(terminal, 4096).decode(errors="replace")
    return said


@pytest.mark.parametrize("program", ["egressguard", "egressguard-milter"])
def test_ctrl_c_while_it_is_imported_leaves_no_traceback(program: str, tmp_path: Path) -> None:
    """The first library that is imported is where the operator has pressed it."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    done = run(program, "status", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_reader_that_has_seen_enough_leaves_no_traceback_and_no_verdict() -> None:
    done = subprocess.run(["sh", "-c", f"{PROGRAMS}/egressguard exchange-setup; echo $? >&2"], text=True, check=False,
                          stdout=_closed_pipe(), stderr=subprocess.PIPE)
    assert done.stderr == "141\n"


def _closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("words", [["status"], ["plan"], ["apply"], ["open", "--for", "1m", "--reason", "test"]])
def test_without_root_it_says_what_is_needed(words: list[str]) -> None:
    done = unprivileged("egressguard", *words, "--config", str(EXAMPLE))
    assert done.returncode == 4
    assert "CAP_NET_ADMIN" in done.stderr
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_as_json_names_every_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "egressguard.toml"
    wrong.write_text('inside = []\nmode = "enforced"\nprots = [25]\n')
    done = run("egressguard", "check", "--json", "--config", wrong)
    assert done.returncode == 4
    assert [m["key"] for m in json.loads(done.stdout)["mistakes"]] == ["inside", "mode", "prots"]


@pytest.mark.parametrize(("module", "few"), [
    ("egressguard.cli", {"pyroute2", "http.client", "smtplib", "ssl", "redis"}), ("egressguard.daemon", {"pyroute2", "rich", "redis"})])
def test_neither_a_command_nor_the_daemon_starts_with_what_few_need(module: str, few: set[str]) -> None:
    """They take long to import, pyroute2 as long as all the rest."""
    code = f"import {module}, sys; print({few} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout == "set()\n"
