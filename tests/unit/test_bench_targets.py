"""A bench that has missed a target ends with code 1 and says which one, by how much."""

import pytest

from bench.firewall.targets import Targets


def test_a_missed_target_is_named_and_the_bench_does_not_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    targets = Targets()
    assert targets.most("a blocked SYN", 1.2, 1.1) == "≤ 1.1"
    assert targets.least("packet rate", 0.98, 0.97) == "≥ 0.97"
    with pytest.raises(SystemExit, match="1"):
        targets.end()
    assert capsys.readouterr().err == "missed: a blocked SYN: 1.2, not ≤ 1.1\n"


def test_a_bench_that_meets_all_ends_well() -> None:
    targets = Targets()
    targets.most("a round", 30.0, 30.0)
    targets.least("reading", 5.0, 5.0)
    targets.end()
