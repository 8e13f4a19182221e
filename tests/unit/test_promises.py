"""docs/promises.md: a run replaces what it has measured; what others have measured stays for as long as it says something."""

from pathlib import Path

import pytest

from tests import promises
from tests.promises import promise, read, write

OLD = "tests/netns/test_old.py::test_old[4]"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Written by a run of another file of tests."""
    monkeypatch.setattr(promises, "_figures", {})
    measured_by(OLD, monkeypatch)
    test = tmp_path / "tests/netns/test_old.py"
    test.parent.mkdir(parents=True)
    test.write_text("def test_old(family): pass\n")
    promise(1, "SYNs that leaked", 0, 0, "500 kills, `nft` and so on")
    write(tmp_path / "promises.md", tmp_path)
    promises._figures.clear()
    return tmp_path / "promises.md"


def measured_by(test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"{test} (call)")


def held(file: Path) -> list[tuple[int, str, str]]:
    return [(figure.number, figure.test, figure.measured) for figure in read(file.read_text())]


def test_what_another_run_has_measured_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_by("tests/netns/test_new.py::test_new", monkeypatch)
    promise(2, "packets lost", 0, 0, "150 reloads")
    write(file, file.parent)
    assert held(file) == [(1, OLD, "0"), (2, "tests/netns/test_new.py::test_new", "0")]
    assert "## 3. Every TCP" in file.read_text()


def test_a_file_that_was_run_again_keeps_no_old_row(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_by(OLD.replace("[4]", "[6]"), monkeypatch)
    promise(1, "SYNs that leaked, in other words", 1, 0, "5 kills")
    write(file, file.parent)
    assert held(file) == [(1, OLD.replace("[4]", "[6]"), "1")]


def test_a_row_whose_test_is_gone_goes(file: Path) -> None:
    (file.parent / "tests/netns/test_old.py").write_text("def test_older(family): pass\n")
    write(file, file.parent)
    assert held(file) == []


def test_figures_of_another_machine_are_not_mixed_in(file: Path) -> None:
    text = file.read_text()
    file.write_text(text.replace("processors.", "processors and more."))
    write(file, file.parent)
    assert held(file) == []
