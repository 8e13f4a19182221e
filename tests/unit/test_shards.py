"""The inventory's sets: the rules file has what the code says, and any address plan spreads over them."""

from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard.core.shards import SHARDS, block, shard_of

RULES = Path(__file__).parents[2] / "rules/egressguard.nft"


def test_the_rules_file_holds_the_block_that_the_code_writes() -> None:
    assert block() in RULES.read_text("utf-8"), "put what egressguard.core.shards.block() returns into the file"


def test_the_masks_of_the_rules_are_those_of_the_code() -> None:
    assert f"ip saddr & {ip_address(0x0555)} vmap @shard4" in RULES.read_text("utf-8")
    assert "ip6 saddr & 0:0:5:115:: vmap @shard6" in RULES.read_text("utf-8")
    assert shard_of(ip_address(0x0555)) == "known4_63"
    assert shard_of(ip_address("0:0:5:115::")) == "known6_63"


@pytest.mark.parametrize(("first", "step", "many", "least"), [
    ("192.0.2.0", 1, 256, 16), ("198.51.100.0", 1, 8192, SHARDS), ("198.51.100.0", 16, 4096, 16),
    ("198.51.100.0", 256, 4096, 4), ("2001:db8::", 1 << 64, 65_536, 16), ("2001:db8::", 1 << 72, 65_536, 8),
    ("2001:db8::", 1 << 80, 65_536, 4),
])
def test_hosts_at_any_step_spread(first: str, step: int, many: int, least: int) -> None:
    start = ip_address(first)
    found = Counter(shard_of(start + n * step) for n in range(many))
    assert len(found) >= least
    assert max(found.values()) <= 2 * many / len(found)
