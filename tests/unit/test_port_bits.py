"""One comparison tells most other ports apart, and never one of those that are looked at."""

from pathlib import Path

import pytest

from egressguard.core.policy import port_bits
from egressguard.core.settings import Group, Settings
from egressguard.core.tables import ROUTER
from egressguard.kernel.rules_file import RulesFile, rules_of

RULES = Path(__file__).resolve().parents[2] / "rules" / "egressguard.nft"


def of(*more: int) -> Settings:
    return Settings(group=(Group("submission", (), also_count=more),) if more else ())


@pytest.mark.parametrize("more", [(), (587,), (465, 587, 2525), (65535,), tuple(range(26, 90))])
def test_every_port_that_is_looked_at_agrees(more: tuple[int, ...]) -> None:
    mask, bits = port_bits(of(*more))
    assert {port & mask for port in (25, *more)} == {bits}


def test_one_port_is_compared_whole_and_the_usual_ones_leave_few_others() -> None:
    assert port_bits(of()) == (0xFFFF, 25)
    mask, bits = port_bits(of(465, 587, 2525))
    assert sum(port & mask == bits for port in range(65536)) == 512
    assert not any(port & mask == bits for port in (22, 53, 80, 443, 993, 8080))


def test_the_rules_are_loaded_with_the_configured_ports() -> None:
    assert "th dport & 0xffff == 25 goto doubtful" in rules_of(of(), RULES, ROUTER).text()
    assert rules_of(of(), RULES, ROUTER).as_written()
    assert "th dport & 0xfdad == 9 goto doubtful" in rules_of(of(587), RULES, ROUTER).text()
    assert RulesFile(RULES).text() == rules_of(of(), RULES, ROUTER).text()
