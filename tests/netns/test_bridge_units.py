"""The units' program on a hypervisor when no file loads: its fallback shuts the bridges too, until rules take over.

With bridge-nf-call-iptables 0 throughout: the inet family, and with it the other fallback, sees no bridged frame.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.bridged import BridgedDeployment
from lab.filters import tag_filter
from lab.hypervisor import PORT, Hypervisor
from lab.network import WEB2
from lab.shapes import SHAPES
from lab.sniffer import Capture
from lab.travel import travel
from tests.netns.test_bridge_corpus import TAGGED, TWICE, allowed
from tests.netns.test_units import PROJECT, Router, attacked, both_families

FALLBACKS = ["table inet egressguard_fallback", "table bridge egressguard_fallback"]
TABLES = ["table inet egressguard", "table bridge egressguard"]
FAMILIES = (4, 6)


@pytest.fixture
def site(root: None, tmp_path: Path) -> Iterator[BridgedDeployment]:
    with Hypervisor() as hypervisor:
        hypervisor.bridge_calls(0)
        yield BridgedDeployment(hypervisor, tmp_path)


@pytest.fixture
def router(site: BridgedDeployment) -> Router:
    return Router(site.world, site.folder)


def fall_back(router: Router) -> None:
    """Without any file that loads."""
    router.rules.write_text("no nft\n")
    router.nft("flush", "ruleset")
    router.runs("egressguard-rules.service")


def nothing_leaves(site: BridgedDeployment) -> None:
    for family in FAMILIES:
        for shapes in (list(SHAPES), TAGGED):
            fates = travel(site.hypervisor, WEB2, shapes, family)
            assert {n: f.arrived for n, f in fates.items() if f.arrived > allowed(n, family)} == {}, f"IPv{family}"


def two_tags_hide_nothing(site: BridgedDeployment) -> None:
    with Capture(site.hypervisor.outside, "eth0", tag_filter()) as tap:
        for family in FAMILIES:
            travel(site.hypervisor, WEB2, TWICE, family)
        assert tap.count() == 0


def test_the_fallback_lets_no_shape_cross_a_bridge(router: Router, site: BridgedDeployment) -> None:
    fall_back(router)
    assert router.tables() == FALLBACKS
    router.runs("egressguard-fallback.service")
    assert router.tables() == FALLBACKS, "again"
    nothing_leaves(site)
    two_tags_hide_nothing(site)


@pytest.mark.parametrize("by", ["unit", "daemon"])
@both_families
def test_rules_that_load_later_take_over_without_a_gap(router: Router, site: BridgedDeployment, by: str, family: int) -> None:
    good = router.rules.read_bytes()
    fall_back(router)
    with attacked(site.world, family, PORT[WEB2.name]):
        if by == "unit":
            router.rules.write_bytes(good)
            assert router.runs("egressguard-rules.service") == 0
        else:
            site.start_router()
    assert router.tables() == TABLES


def test_rules_without_a_table_for_bridges_leave_them_shut(router: Router, site: BridgedDeployment) -> None:
    """The last good file is older than the `[[bridge]]` in the configuration."""
    fall_back(router)
    (router.state / "last-good.nft").write_text((PROJECT / "rules/egressguard.nft").read_text() + "# complete\n")
    assert router.runs("egressguard-rules.service") == 0
    assert router.tables() == [FALLBACKS[1], TABLES[0]]


def test_status_names_a_fallback_that_nobody_asks_for_any_more(router: Router, site: BridgedDeployment) -> None:
    fall_back(router)
    text = site.router_config.read_text()
    start, end = text.index("[[bridge]]"), text.index("[[sender]]")
    inside = '[[inside]]\ninterfaces = ["vnet1"]\nnetworks = ["198.51.100.0/24", "2001:db8:0:10::/60"]\n'
    site.router_config.write_text(text[:start] + inside + text[end:].replace('ports = ["vnet1"]', ""))
    assert "`nft delete table bridge egressguard_fallback` removes it" in str(site.status()[1]["findings"])


MUTANTS = {
    "without its rule": ("\t\tcounter drop\n", nothing_leaves),
    "without IPv4 fragments": ("\t\tmeta protocol ip ip frag-off & 0x1fff != 0 drop\n", nothing_leaves),
    "without IPv6 fragments": ("\t\tmeta protocol ip6 frag frag-off != 0 drop\n", nothing_leaves),
    "that asks the Ethernet header": ("meta protocol ip6 ", nothing_leaves),
    "without tags": ("\t\tmeta protocol { 0x8100, 0x88a8, 0x9100 } counter drop\n", two_tags_hide_nothing),
    "for routers alone": ("; then shut_bridges; fi", nothing_leaves),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_fallback_is_noticed(router: Router, site: BridgedDeployment, mutant: str) -> None:
    old, check = MUTANTS[mutant]
    script = router.program / "load-rules"
    head, found, tail = script.read_text().rpartition(old)
    assert found
    script.write_text(head + ("; then :; fi" if old.startswith(";") else "") + tail)
    fall_back(router)
    with pytest.raises(AssertionError):
        check(site)
