"""A sender that is refused is told for a while; what another configuration refused is not."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from egressguard.core.hosts import Host
from egressguard.core.inventory import inventory_of
from egressguard.core.settings import Inside, Sender, Settings
from egressguard.refused import REMEMBER_S, Refused

SETTINGS = Settings(inside=(Inside(("dmz",), (ip_network("192.0.2.0/26"), ip_network("2001:db8:0:a::/64"))),),
                    sender=(Sender("relay", (ip_address("192.0.2.10"), ip_address("2001:db8:0:a::2"))),))
RELAY, RELAY6, WEB = Host("192.0.2.10"), Host("2001:db8:0:a::/64"), Host("198.51.100.12")


def test_a_senders_attempts_are_told_for_ten_minutes_and_nobody_elses() -> None:
    refused, inventory = Refused(), inventory_of(SETTINGS)
    refused.note(set().__contains__, inventory, 0.0)
    refused.note({WEB}.__contains__, inventory, 1.0)
    assert refused.fault() == ""
    refused.note({RELAY, RELAY6, WEB}.__contains__, inventory, 2.0)
    assert refused.fault().startswith("attempts of beside relay (2001:db8:0:a::/64), relay (192.0.2.10) are refused")
    refused.note({RELAY6}.__contains__, inventory, 300.0)
    refused.note(set().__contains__, inventory, 2.0 + REMEMBER_S)
    assert refused.fault().startswith("attempts of beside relay (2001:db8:0:a::/64) are refused")
    refused.note(set().__contains__, inventory, 300.0 + REMEMBER_S)
    assert refused.fault() == ""


def test_what_was_refused_before_it_was_a_sender_is_no_fault() -> None:
    refused = Refused()
    refused.note({RELAY}.__contains__, inventory_of(replace(SETTINGS, sender=())), 1.0)
    inventory = inventory_of(SETTINGS)
    refused.note({RELAY}.__contains__, inventory, 2.0)
    assert refused.fault() == "", "counted before the new configuration was in the kernel"
    refused.note({RELAY}.__contains__, inventory, 3.0)
    assert refused.fault()
