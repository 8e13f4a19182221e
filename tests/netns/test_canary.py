"""The canary on real packets: it proves that the rules stand on the path, or says what they did not do."""

import os
import signal
import socket
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard.canary_watch import CanaryWatch
from egressguard.config import read_site
from egressguard.core.canary import Fate, Run
from egressguard.core.errors import KernelError
from egressguard.core.settings import Settings
from egressguard.kernel.canary import Canary, fly
from lab.deployment import Deployment
from lab.namespaces import wait_until
from lab.network import SOMEBODY4, SOMEBODY6, World
from lab.sink import Sink
from lab.sniffer import Sniffer

RULES = Path(__file__).parents[2] / "rules/egressguard.nft"
SENT = {SOMEBODY4, SOMEBODY6}
CANARY = f'[canary]\ndestinations = ["{SOMEBODY4}", "{SOMEBODY6}"]\n'
BOTH_REFUSED = [(4, Fate.REFUSED), (6, Fate.REFUSED)]


def settings(site: Deployment) -> Settings:
    return read_site(site.router_config).settings


def flown(site: Deployment) -> Run:
    return site.world.router.call(fly, settings(site))


def fates(run: Run) -> list[tuple[int, Fate]]:
    return [(flight.family, flight.fate) for flight in run.flights]


def interfaces(world: World) -> str:
    return world.router.run(["ip", "-o", "link"]).stdout


def apply(site: Deployment, *mutation: tuple[str, str]) -> None:
    """The configuration in the kernel, without a daemon that would repair what a test breaks."""
    text = RULES.read_text()
    for old, new in mutation:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (site.folder / RULES.name).write_text(text)
    site.amend("rules = \"\"", f'rules = "{site.folder}"')
    assert site.egressguard("apply").returncode == 0


@pytest.fixture
def site(site: Deployment) -> Deployment:
    site.amend("", CANARY)
    return site


def test_it_is_refused_and_counted_once_in_each_family_and_nothing_of_it_stays(site: Deployment) -> None:
    site.start_router()
    before = interfaces(site.world)
    with Sniffer(site.world.outside, "eth0") as outside:
        assert fates(flown(site)) == fates(flown(site)) == BOTH_REFUSED
        assert outside.stop() == []
    assert interfaces(site.world) == before
    code, status = site.status()
    assert code == 0
    assert status["totals"]["attempts"] == status["totals"]["blocked"] == 4
    assert status["hosts"] == {}
    assert "192.0.2.254" not in site.egressguard("hosts", "--json").stdout


@pytest.mark.parametrize("answer", ["drop", "prohibit"])
def test_every_answer_counts_as_a_refusal(site: Deployment, answer: str) -> None:
    site.amend("router =", f'answer = "{answer}"\nrouter =')
    apply(site)
    assert fates(flown(site)) == BOTH_REFUSED


def test_reverse_path_filters_and_masquerade_do_not_stand_in_its_way(site: Deployment) -> None:
    site.world.router.sysctl({"net.ipv4.conf.all.rp_filter": 1, "net.ipv4.conf.default.rp_filter": 1})
    masquerade(site)
    apply(site)
    assert fates(flown(site)) == BOTH_REFUSED


def masquerade(site: Deployment) -> None:
    site.world.router.run(["nft", "-f", "-"], stdin="""
        table inet site {
            chain post { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
        }""")


LAST_DROP = ("\t\tjump answer\n\t\tjump remember\n\t\tdrop\n", "\t\taccept\n")


def test_rules_without_their_last_drop_count_it_and_let_it_pass(site: Deployment) -> None:
    apply(site, LAST_DROP)
    run = flown(site)
    assert fates(run) == [(4, Fate.LEAKED), (6, Fate.LEAKED)]
    assert all("left by wan: the rules counted it and let it pass" in flight.text for flight in run.flights)


def test_a_leak_is_seen_through_address_translation(site: Deployment) -> None:
    masquerade(site)
    apply(site, LAST_DROP)
    assert fates(flown(site)) == [(4, Fate.LEAKED), (6, Fate.LEAKED)]


def test_rules_that_nothing_reaches_are_said_to_be_so(site: Deployment) -> None:
    apply(site, ("\t\tmeta l4proto != tcp goto not_tcp\n", "\t\taccept\n"))
    run = flown(site)
    assert fates(run) == [(4, Fate.LEAKED), (6, Fate.LEAKED)]
    assert all("it did not reach the rules" in flight.text for flight in run.flights)


def test_a_drop_before_the_rules_is_no_leak_but_proves_nothing(site: Deployment) -> None:
    apply(site)
    site.world.router.run(["nft", "-f", "-"], stdin="""
        table inet other {
            chain early { type filter hook prerouting priority raw; tcp dport 25 drop; }
        }""")
    run = flown(site)
    assert fates(run) == [(4, Fate.UNCOUNTED), (6, Fate.UNCOUNTED)]
    assert all("did not reach the rules" in flight.text for flight in run.flights)


def test_a_redirect_to_this_machine_is_a_leak(site: Deployment) -> None:
    apply(site)
    site.world.router.run(["nft", "-f", "-"], stdin="""
        table inet other {
            chain nat { type nat hook prerouting priority dstnat; tcp dport 25 redirect to :2525; }
        }""")
    # A redirect needs an address on the interface that the packet comes in by; a customer's has one.
    with site.world.router.call(listener) as listening:
        run = flown(site)
        assert listening.fileno() > 0
    assert all(flight.fate in (Fate.LEAKED, Fate.UNCOUNTED) for flight in run.flights), run
    assert not any(flight.fate is Fate.REFUSED for flight in run.flights)


def listener() -> socket.socket:
    return socket.create_server(("::", 2525), family=socket.AF_INET6, dualstack_ipv6=True)


@pytest.mark.parametrize("how", ["observe", "open", "flush", "group", "forward"])
def test_where_nothing_would_refuse_it_nothing_is_sent(site: Deployment, how: str) -> None:
    if how == "observe":
        site.write_router_config("observe")
        site.amend("", CANARY)
    if how == "group":
        site.amend("", '[[group]]\nname = "all"\nnetworks = ["0.0.0.0/0", "::/0"]\nmode = "observe"')
    apply(site)
    if how == "open":
        assert site.egressguard("open", "--for", "1m", "--reason", "test").returncode == 0
    if how == "flush":
        site.world.router.run(["nft", "flush ruleset"])
    if how == "forward":
        site.world.router.sysctl({"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0})
    with Sniffer(site.world.outside, "eth0") as outside:
        assert fates(flown(site)) == [(4, Fate.GROUNDED), (6, Fate.GROUNDED)]
        assert outside.stop() == []


@pytest.mark.parametrize(("destinations", "reason"), [
    (("203.0.113.1", "2001:db8:fffe::1"), "is this router's own"),
    (("192.0.2.70", "2001:db8:0:99::1"), "is not routed"),
    (("192.0.2.71", "2001:db8:0:98::1"), "which is inside"),
])
def test_a_destination_that_is_not_outside_is_refused_with_the_reason(
        site: Deployment, destinations: tuple[str, str], reason: str) -> None:
    apply(site)
    site.world.router.ip("route add unreachable 192.0.2.70", "route add unreachable 2001:db8:0:99::/64",
                         "route add 192.0.2.71 dev dmz", "route add 2001:db8:0:98::/64 dev dmz")
    known = settings(site)
    canary = replace(known.canary, destinations=tuple(map(ip_address, destinations)))
    run = site.world.router.call(fly, replace(known, canary=canary))
    assert fates(run) == [(4, Fate.UNABLE), (6, Fate.UNABLE)]
    assert all(reason in flight.text for flight in run.flights), run


def test_an_interface_of_somebody_else_is_left_alone(site: Deployment) -> None:
    apply(site)
    site.world.router.ip("link add egcanary0 type bridge")
    with pytest.raises(KernelError, match="is not egressguard's"):
        flown(site)
    assert "egcanary0" in interfaces(site.world)


def test_killed_at_any_moment_it_leaves_nothing_and_the_next_one_flies(site: Deployment) -> None:
    apply(site)
    for step in range(12):
        canary = site.world.router.call(Canary, settings(site))  # its parent, a thread, ends: so does it
        time.sleep(step * 0.015)
        canary.shoot()
    assert fates(flown(site)) == BOTH_REFUSED
    wait_until(lambda: "egcanary0" not in interfaces(site.world), "the interface to be gone")


def test_two_canaries_wait_for_each_other(site: Deployment) -> None:
    apply(site)

    def both() -> tuple[Run | None, Run | None]:
        one, other = Canary(settings(site)), Canary(settings(site))
        return one.landed(5), other.landed(5)

    assert [fates(run) for run in site.world.router.call(both) if run] == [BOTH_REFUSED, BOTH_REFUSED]


class Silent:
    """A database that keeps nothing."""

    def event(self, now_s: float, kind: str, why: str) -> None:
        pass


def test_no_round_waits_for_it(site: Deployment) -> None:
    apply(site)
    known = settings(site)
    known = replace(known, canary=replace(known.canary, enabled=True))

    def longest_step_s() -> float:
        watch = CanaryWatch(Silent())  # type: ignore[arg-type]
        longest, end = 0.0, time.monotonic() + 5
        while (began := time.monotonic()) < end:
            if watch.step(known, began) is not None:
                return max(longest, time.monotonic() - began)
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.01)
        return 99.0

    assert site.world.router.call(longest_step_s) < 1.0


def test_the_daemon_sends_it_and_status_tells(site: Deployment) -> None:
    site.amend("[canary]", "[canary]\nenabled = true\nperiod_s = 5.0")
    site.start_router()
    wait_until(lambda: site.status()[1]["canary"] is not None, "the first canary")
    first = site.status()
    assert first[0] == 0
    assert {flight["fate"] for flight in first[1]["canary"]["flights"]} == {"refused"}
    assert first[1]["hosts"] == {}
    wait_until(lambda: site.status()[1]["totals"]["attempts"] >= 4, "the second canary")
    assert "canary   refused and counted in every family (" in site.egressguard("status").stdout
    assert "canary" not in site.egressguard("history").stdout
    assert "192.0.2.254" not in site.egressguard("hosts", "--json").stdout


def test_a_canary_that_gets_out_is_the_alarm(site: Deployment) -> None:
    """The rules are those of their file, so nothing but the canary can tell."""
    apply(site, LAST_DROP)
    site.amend("[canary]", "[canary]\nenabled = true\nperiod_s = 5.0")
    with Sink(site.world.outside):
        daemon = site.start_router()
        wait_until(lambda: site.status()[0] == 3, "the alarm")
    code, status = site.status()
    assert (code, status["mode"], status["rules_intact"]) == (3, "unknown", True)
    assert "left by wan" in site.egressguard("history").stdout
    assert "fates=leaked" in site.log("egressguard")
    (site.folder / RULES.name).write_text(RULES.read_text())
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: site.status()[0] == 0, "the all-clear")
    wait_until(lambda: "canary: refused and counted in every family" in site.egressguard("history").stdout, "history")


def test_the_daemons_death_is_the_canarys(site: Deployment) -> None:
    site.amend("[canary]", "[canary]\nenabled = true\nperiod_s = 5.0")
    for _ in range(5):
        daemon = site.start_router()
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
    wait_until(lambda: "egcanary0" not in interfaces(site.world), "the interface to be gone")
    assert fates(flown(site)) == BOTH_REFUSED


