"""What the doctor finds around the bridge's table and the last line."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from egressguard.core.finding import Finding, Severity
from egressguard.core.foreign_rules import Foreign
from egressguard.core.path_diagnosis import bridge_table, last_line, table_owner
from egressguard.core.path_settings import Bridge, LastLine
from egressguard.core.settings import Settings
from egressguard.core.surroundings import Link, Surroundings

SETTINGS = Settings(bridge=(Bridge("br0", ("vnet*",), (IPv4Network("198.51.100.0/24"),)),), last_line=LastLine(("wan",)))
WELL = Surroundings(
    SETTINGS, {}, kernel=(6, 1), links=(
        Link("br0", kind="bridge"), Link("vnet1", master="br0"), Link("eth0", master="br0"),
        Link("wan", default_route=frozenset({4, 6}))),
    beside={"bridge": {"egress_bridge": "forward -210 1"}, "netdev": {"last_line": "egress 0 1"}},
    last_line_on=frozenset({"wan"}))


def found(seen: Surroundings) -> list[Finding]:
    return [*bridge_table(seen), *last_line(seen)]


def test_nothing_is_found_where_all_is_well() -> None:
    assert found(WELL) == []
    assert found(Surroundings(Settings(), {}, kernel=(5, 10))) == [], "nobody asked for either"


@pytest.mark.parametrize(("seen", "severity", "words"), [
    (replace(WELL, beside={}), Severity.OFF_PATH, "is not in the kernel"),
    (replace(WELL, beside={"bridge": {"egress_bridge": "input -210 1"}}), Severity.OFF_PATH, "does not hang in"),
    (replace(WELL, links=WELL.links[3:]), Severity.WEAKENS, "br0 is no bridge"),
    (replace(WELL, links=(*WELL.links[:2], WELL.links[3])), Severity.NOTE, "every port of br0"),
    (replace(WELL, kernel=(5, 15)), Severity.WEAKENS, "no egress hook"),
    (replace(WELL, links=WELL.links[:3]), Severity.WEAKENS, "wan does not exist"),
    (replace(WELL, last_line_on=frozenset()), Severity.WEAKENS, "does not stand on wan"),
    (replace(WELL, links=(*WELL.links, Link("lte0", default_route=frozenset({4})))), Severity.NOTE, "lte0"),
    (replace(WELL, foreign=Foreign(flowtables=(("inet x", ("wan",)),))), Severity.WEAKENS, "flowtable"),
])
def test_what_stands_in_the_way_is_found(seen: Surroundings, severity: Severity, words: str) -> None:
    finding, = found(seen)
    assert (finding.severity, words in finding.found) == (severity, True)


def test_an_owner_that_cannot_be_is_found() -> None:
    asked = Surroundings(Settings(table_owner=True), {})
    assert [*table_owner(asked), *table_owner(Surroundings(Settings(), {}, no_owner="old"))] == []
    finding, = table_owner(replace(asked, no_owner="nft is old"))
    assert (finding.severity, "nft is old" in finding.found) == (Severity.WEAKENS, True)
