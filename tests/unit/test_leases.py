"""A signal is a lease at the receiver: stale, replayed and reordered documents change nothing."""

from dataclasses import replace

from egressguard.core.documents import Bulletin, Origin
from egressguard.core.hosts import Host
from egressguard.core.leases import Leases, receive, worst
from egressguard.core.verdict import State

WEB = Host("198.51.100.12")
FIRST = Bulletin(Origin("r1", "epoch", 1), 30.0, {WEB: State.SUSPECT})
NOTHING: Leases[Bulletin] = {}


def test_a_document_counts_for_its_lifetime_after_receipt() -> None:
    leases = receive(NOTHING, [FIRST], 100.0)
    assert worst(leases, 129.9) == {WEB: State.SUSPECT}
    assert worst(leases, 130.0) == {}


def test_reading_it_again_does_not_prolong_it() -> None:
    leases = receive(NOTHING, [FIRST], 100.0)
    leases = receive(leases, [FIRST], 129.0)
    assert worst(leases, 131.0) == {}
    assert worst(receive(leases, [FIRST], 10_000.0), 10_000.0) == {}, "not even when it was stale for long"


def test_an_older_number_changes_nothing() -> None:
    second = replace(FIRST, origin=Origin("r1", "epoch", 2), verdicts={WEB: State.COMPROMISED})
    leases = receive(receive(NOTHING, [second], 0.0), [FIRST], 1.0)
    assert worst(leases, 1.0) == {WEB: State.COMPROMISED}


def test_a_restarted_router_begins_a_new_epoch() -> None:
    leases = receive(NOTHING, [replace(FIRST, origin=Origin("r1", "epoch", 99))], 0.0)
    leases = receive(leases, [replace(FIRST, origin=Origin("r1", "next", 1), verdicts={})], 1.0)
    assert worst(leases, 1.0) == {}


def test_where_routers_disagree_the_worst_counts() -> None:
    other = Bulletin(Origin("r2", "epoch", 1), 30.0, {WEB: State.COMPROMISED})
    for order in ([FIRST, other], [other, FIRST]):
        assert worst(receive(NOTHING, order, 0.0), 0.0) == {WEB: State.COMPROMISED}


def test_a_silent_origin_is_dropped_once_its_document_is_gone() -> None:
    leases = receive(NOTHING, [FIRST], 0.0)
    assert receive(leases, [], 59.0)
    assert not receive(leases, [], 61.0)
