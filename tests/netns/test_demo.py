"""script/demo as it stands, and on mutants of rules/."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_demo_tells_its_story(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run([ROOT / "script/demo", "--json", figures], text=True, capture_output=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("/7  ") == 7
    assert '"leaked": 0' in figures.read_text()


@pytest.mark.parametrize(("defence", "mutated", "step"), [
    ('jump remember\n\t\tdrop', 'jump remember\n\t\taccept', None),
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
