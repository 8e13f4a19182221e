"""Every command in the README and in the documents is executed, in the lab where it needs a network."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.deployment import Deployment
from lab.namespaces import wait_until

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "rules/README.md", "milter/README.md", "docs/architecture.md", "docs/doctor.md"]
# Run by script/test itself, or as a test of its own below.
ELSEWHERE = {"script/test", "script/demo"}
DAEMONS = {"egressguard run", "egressguard-milter run"}


def commands() -> Iterator[tuple[str, str]]:
    """Every line of every `sh` block: (document, command without its comment)."""
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text("utf-8"), re.DOTALL):
            for line in block.splitlines():
                command = re.sub(r"\s+#.*", "", line).strip()
                if command and not command.startswith("#"):
                    yield document, command


COMMANDS = sorted(set(commands()))


def test_there_are_commands_to_execute() -> None:
    assert {"script/demo", "script/test"} <= {command for _, command in COMMANDS}


@pytest.mark.parametrize(("document", "command"), [c for c in COMMANDS if c[1] not in ELSEWHERE])
def test_a_documented_command_works(site: Deployment, document: str, command: str) -> None:
    site.start_router()
    site.start_milter()
    wait_until(lambda: site.status()[0] == 0, "a healthy site")
    if " release " in command:
        assert site.egressguard("quarantine", "198.51.100.12", "--for", "1h", "--reason", "to be released").returncode == 0
    host = site.world.relay if "egressguard-milter" in command else site.world.router
    command = command.replace("/etc/egressguard/egressguard.toml", str(site.router_config))
    command = command.replace("/etc/egressguard/egressguard-milter.toml", str(site.milter_config))
    argv = shlex.split(command)
    argv = [str(ROOT / argv[0]) if "/" in argv[0] else argv[0], *argv[1:]]
    if "egressguard" in Path(argv[0]).name and "--config" not in argv:
        argv += ["--config", str(site.milter_config if "milter" in argv[0] else site.router_config)]
    done = subprocess.run(["nsenter", f"--net={host.path}", *argv], cwd=ROOT, text=True, capture_output=True,
                          check=False, timeout=300)
    if any(daemon in command for daemon in DAEMONS):
        assert "another egressguard runs" in done.stderr or "in use" in done.stderr, "it got as far as the lock"
    else:
        assert done.returncode == 0, f"{document}: {command}: {done.stdout}{done.stderr}"


def test_the_demo_tells_its_story(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run([ROOT / "script/demo", "--json", figures], text=True, capture_output=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("/7  ") == 7
    assert '"leaked": 0' in figures.read_text()


@pytest.mark.parametrize(("defence", "mutated", "step"), [
    ('reject with tcp reset\n\t\tdrop', 'reject with tcp reset\n\t\taccept', None),
    ("\t\tgoto refuse\n", "\t\taccept\n", 4),
    ("jump attempt\n", "continue\n", 4),
    ("\t\tiifname . ip saddr @allow4 goto sender\n\t\tiifname . ip6", "\t\tiifname . ip6", 3),
])
def test_the_demo_ends_with_an_error_when_a_defence_is_missing(
        tmp_path: Path, defence: str, mutated: str, step: int | None) -> None:
    """Mutants of rules/, played by the same story; without the last drop no reset is missing, so it passes."""
    text = (ROOT / "rules/egressguard.nft").read_text()
    assert defence in text
    (tmp_path / "egressguard.nft").write_text(text.replace(defence, mutated))
    done = subprocess.run([ROOT / ".venv/bin/python", "-m", "lab.demo", "--rules", tmp_path], cwd=ROOT,
                          text=True, capture_output=True, check=False, timeout=300)
    assert (f"WRONG: step {step}," in done.stderr) if step else done.returncode == 0, done.stdout + done.stderr
    assert done.returncode == (1 if step else 0)
