"""`status` never says "enforcing" when it is not, and its exit code is the worst that is true."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from egressguard.core.attempts import Sample, Totals
from egressguard.core.canary import Fate, Flight, Run
from egressguard.core.documents import Client, Origin, Report
from egressguard.core.health import Health, findings, health
from egressguard.core.hosts import Host
from egressguard.core.leases import Lease
from egressguard.core.mode import enforces, mode_of
from egressguard.core.observation import Observation, Table
from egressguard.core.plan import Change
from egressguard.core.policy import desired
from egressguard.core.ruleset import VERSION_CHAIN
from egressguard.core.settings import Inside, Machine, Settings
from egressguard.core.standings import standings
from egressguard.core.verdict import State, Tier, Verdict

WEB, WEB6 = Host("198.51.100.12"), Host("2001:db8:0:12::/64")
SETTINGS = Settings(
    inside=(Inside(("web",), (ip_network("198.51.100.0/24"), ip_network("2001:db8:0:12::/64"))),),
    host=(Machine("web2", (ip_address("198.51.100.12"), ip_address("2001:db8:0:12::2"))),))
TABLE = Table(frozenset({VERSION_CHAIN}), {"egress_forward": "forward -10 1", "egress_output": "output -10 1"}, False, True, (),
              desired(SETTINGS), Sample(100.0))
GOOD = Observation(100.0, SETTINGS, TABLE, frozenset({"web", "wan"}), True, 99.9, {}, {})
COMPROMISED = {WEB: Verdict(WEB, State.COMPROMISED, 9.0, 90.0, 99.0)}


def table(**changes: object) -> Observation:
    return replace(GOOD, table=replace(TABLE, **changes))  # type: ignore[arg-type]


def with_set(name: str, *elements: tuple[str, ...]) -> Observation:
    return table(sets={**TABLE.sets, name: frozenset(elements)})


def code(seen: Observation) -> Health:
    return health(findings(seen))


def test_all_well_is_healthy() -> None:
    assert findings(GOOD) == []
    assert code(GOOD) is Health.HEALTHY
    assert enforces(TABLE)


def test_a_full_set_of_macs_is_told_since_it_hides_who_forges() -> None:
    seen = table(sample=Sample(100.0, Totals(mac_overflow=7)))
    assert code(seen) is Health.DEGRADED
    assert "7 packets without their MAC" in findings(seen)[0].text


@pytest.mark.parametrize(("gateways", "told"), [
    (frozenset(), "came from one MAC"), (frozenset({"00:00:5e:00:53:02"}), "came from one MAC"),
    (frozenset({"00:00:5e:00:53:01"}), ""), (None, "or it is a router: its next hops are not known")])
def test_a_machine_that_takes_turns_at_many_addresses_is_told_unless_it_is_a_router(gateways: frozenset[str] | None,
                                                                                   told: str) -> None:
    macs = {f"198.51.100.{n}": frozenset({"00:00:5e:00:53:01"}) for n in range(100, 200)}
    seen = replace(table(sample=Sample(100.0, macs=macs)), gateways=gateways)
    assert told in "".join(finding.text for finding in findings(seen))
    assert code(seen) is (Health.DEGRADED if told else Health.HEALTHY)


def test_the_fallback_is_named_since_it_shuts_senders_out_too() -> None:
    [first, *_] = findings(replace(GOOD, table=None, fallback=True))
    assert first.health is Health.NOT_ENFORCING
    assert "table inet egressguard_fallback shuts port 25 for everybody, senders too" in first.text


@pytest.mark.parametrize("seen", [
    replace(GOOD, table=None),
    table(chains=frozenset()),
    table(intact=False),
    table(intact=False, sample=Sample(100.0, Totals(overflow=1))),
    table(changes=(Change("inside_if", removed=(("wan",),)),)),
    table(changes=(Change("allow4", removed=(("web", "198.51.100.12"),)),)),
    table(changes=(Change("blocked_ports", added=(("25",),)),)),
    table(leases={"opened_family": {("ipv4",): 60.0}}),
    with_set("blocked_ports"),
    table(dormant=True),
    with_set("smtp_ports"),
    with_set("smtp_ports", ("587",)),
    with_set("observed_family", ("ipv4",), ("ipv6",)),
    with_set("observed_family", ("ipv6",)),
])
def test_what_does_not_enforce_is_never_called_enforcing(seen: Observation) -> None:
    assert code(seen) is Health.NOT_ENFORCING
    assert code(replace(seen, verdicts=COMPROMISED, daemon_runs=False)) is Health.NOT_ENFORCING
    assert not enforces(seen.table)
    assert mode_of(seen) != "enforce"


@pytest.mark.parametrize("seen", [
    replace(GOOD, daemon_runs=False),
    replace(GOOD, round_at_s=None),
    replace(GOOD, round_at_s=10.0),
    replace(GOOD, faults={"exchange": "cannot be reached"}),
    replace(GOOD, interfaces=frozenset()),
    table(intact=None),
    table(changes=(Change("allow4", added=(("dmz", "192.0.2.10"),)),)),
    table(sender_macs={"192.0.2.10": frozenset({"00:00:5e:00:53:01", "00:00:5e:00:53:02"})}),
    table(sample=Sample(100.0, macs={"198.51.100.12": frozenset({"00:00:5e:00:53:01", "00:00:5e:00:53:02"})})),
    replace(table(sample=Sample(100.0, macs={"198.51.100.12": frozenset({"00:00:5e:00:53:02"})})),
            neighbours={"198.51.100.12": frozenset({"00:00:5e:00:53:01"})}),
    table(sample=Sample(100.0, Totals(overflow=1))),
    table(sample=Sample(100.0, Totals(fanout_overflow=1))),
    replace(GOOD, reports={"relay": Lease(Report(Origin("relay", 1, 1), 30.0, {}), 50.0)}),
])
def test_what_still_enforces_but_is_not_well_is_degraded(seen: Observation) -> None:
    assert code(seen) is Health.DEGRADED
    assert code(replace(seen, verdicts=COMPROMISED)) is Health.DEGRADED


def test_a_compromised_host_is_named() -> None:
    seen = replace(GOOD, verdicts=COMPROMISED)
    assert code(seen) is Health.COMPROMISED
    assert findings(seen)[0].text == "host 198.51.100.12 (web2) is compromised"


def report(received_s: float, tier: Tier) -> Lease[Report]:
    return Lease(Report(Origin("relay", 1, 1), 30.0, {WEB6: Client(tier, 4, 0, 0)}), received_s)


def test_a_tier_is_what_a_fresh_report_says_under_any_key_and_the_strictest_wins() -> None:
    seen = replace(GOOD, verdicts=COMPROMISED, reports={"a": report(99.0, Tier.TIGHTENED)})
    assert standings(seen)[0].tier is Tier.TIGHTENED
    seen = replace(seen, reports={**seen.reports, "b": report(99.0, Tier.HELD)})
    assert standings(seen)[0].tier is Tier.HELD
    seen = replace(seen, reports={"a": report(60.0, Tier.TIGHTENED)})
    assert standings(seen)[0].tier is None


def test_a_machine_stands_on_one_line_with_all_it_did() -> None:
    sample = Sample(100.0, inventory={WEB: 3, WEB6: 4, Host("198.51.100.99"): 0},
                    destinations={(WEB, "203.0.113.1"): 3, (WEB6, "2001:db8:ffff::1"): 4})
    [standing] = standings(table(sample=sample))
    assert (standing.host, standing.keys) == (WEB, (WEB, WEB6))
    assert (standing.attempts, standing.fan_out, standing.state) == (7, 2, State.CLEAN)


def flown(fate: Fate, at_s: float = 99.0) -> Observation:
    return replace(GOOD, canary=Run(at_s, (Flight(4, Fate.REFUSED, "refused"), Flight(6, fate, "told"))))


@pytest.mark.parametrize(("fate", "expected"), [
    (Fate.REFUSED, Health.HEALTHY), (Fate.GROUNDED, Health.HEALTHY), (Fate.UNABLE, Health.DEGRADED),
    (Fate.UNCOUNTED, Health.DEGRADED), (Fate.LEAKED, Health.NOT_ENFORCING)])
def test_the_canary_has_the_last_word_on_whether_the_rules_stand_on_the_path(fate: Fate, expected: Health) -> None:
    assert code(flown(fate)) is expected
    assert (mode_of(flown(fate)) == "enforce") is (fate is not Fate.LEAKED)


def test_an_old_canary_proves_nothing_any_more() -> None:
    assert code(flown(Fate.REFUSED, -100.0)) is Health.DEGRADED
