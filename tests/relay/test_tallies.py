"""What is remembered for the judge is bounded, and the most recent clients are what is kept."""

from ipaddress import ip_address

from egressguard.core.hosts import Host
from egressguard_milter.tallies import MAX_CLIENTS, Tallies


def host(number: int) -> Host:
    return Host(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")


def test_a_flood_of_clients_leaves_the_most_recent_ones() -> None:
    tallies, count = Tallies(), MAX_CLIENTS + 100
    for number in range(count):
        tallies.met(host(number), ip_address(host(number)), f"{number}.example")
        tallies.accepted(host(number), "a@x.example", 1, 0, 0)
    tallies.refused_recipient(host(count - MAX_CLIENTS))  # known, and so the last one now
    assert len(tallies.recent(count)) == MAX_CLIENTS
    assert tallies.recent(2) == [host(count - MAX_CLIENTS), host(count - 1)]
    assert tallies.of(host(count - MAX_CLIENTS)).accepted == 1
    assert tallies.of(host(0)).accepted == 0
    assert tallies.last_met(host(count - 1)) == (ip_address(host(count - 1)), f"{count - 1}.example")
    assert tallies.last_met(host(0)) == (ip_address(host(0)), "")
