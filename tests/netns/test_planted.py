"""What root does to the sets that only packets write is seen and put right: elements that would stay there, and sets that
are made anew with less room or another timeout. What packets have written stays."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from lab.deployment import Deployment
from lab.firewall import RULES
from lab.namespaces import LabError, wait_until
from lab.network import RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB2
from lab.syns import SynSource, Wire
from tests.netns.test_firewall import attempts, outcome, sink
from tests.netns.test_promises_foreign import start_changed

__all__ = ["sink"]

TABLE = "inet egressguard"
SOON_S = 30.0  # five seconds and a busy machine
MUTANT_S = 10.0  # what never comes is waited for over two of the daemon's full comparisons
PLANTED = {
    "flood4": f'"dmz" . {RELAY.mac} . {RELAY.ipv4} . {SOMEBODY4}',
    "flood6": f'"dmz" . {RELAY.mac} . {RELAY.ipv6} . {SOMEBODY6}',
    "stranger4": "198.51.100.77", "stranger6": "2001:db8:0:77::", "counted_stranger4": "198.51.100.77",
    "fanout4": f"{WEB2.ipv4} . {SOMEBODY4}", "stranger_fanout6": f"2001:db8:0:77:: . {SOMEBODY6}",
    "attempt_mac4": f"{WEB2.ipv4} . 00:00:5e:00:53:99", "sender_mac6": f"{RELAY.ipv6} . 00:00:5e:00:53:99",
}
# Old and new of the declaration in the rules file.
REMADE = {
    "stranger4": ("set stranger4 { type ipv4_addr; size 8192;", "set stranger4 { type ipv4_addr; size 1;"),
    "fanout6": ("set fanout6          { type ipv6_addr . ipv6_addr; size 65536; flags dynamic,timeout; timeout 10m;",
                "set fanout6 { type ipv6_addr . ipv6_addr; size 65536; flags dynamic,timeout; timeout 1s;"),
    "known4_43": ("set known4_43 { type ipv4_addr; counter; }", "set known4_43 { type ipv4_addr; }"),
    "allow4": ("set allow4          { type ifname . ipv4_addr; flags timeout;", "set allow4 { type ifname . ipv4_addr;"),
}


def history(site: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(site.egressguard("history", "--json").stdout)
    return found


def nft(site: Deployment, text: str) -> None:
    site.world.router.run(["nft", "-f", "-"], stdin=text)


def listed(site: Deployment, name: str) -> str:
    return site.world.router.run(["nft", "list", "set", "inet", "egressguard", name]).stdout


def soon(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, timeout_s=SOON_S)


def it_is_weeded(site: Deployment, name: str) -> None:
    nft(site, f"add element {TABLE} {name} {{ {PLANTED[name]} timeout 9h }}")
    soon(lambda: "elements =" not in listed(site, name), "the element to be gone")
    soon(lambda: any(name in line["why"] for line in history(site)), "what happened in history")
    [line] = [line for line in history(site) if "planted" in line["why"]]
    assert line["kind"] == "repair", "it lets nothing more through"
    assert f"({name}), by nft (pid " in line["why"]
    assert site.status()[0] == 0


@pytest.mark.parametrize("name", PLANTED)
def test_an_element_that_is_planted_to_stay_is_removed_and_recorded(site: Deployment, name: str) -> None:
    site.start_router()
    it_is_weeded(site, name)


@pytest.mark.usefixtures("sink")
def test_a_sender_that_was_planted_among_the_refused_sends_again_soon(site: Deployment) -> None:
    router = site.start_router()
    router.kill()
    router.wait()
    nft(site, f"add element {TABLE} flood4 {{ {PLANTED['flood4']} timeout 9h }}")
    assert site.world.relay.call(outcome, SOMEBODY4, 25, 1.0) != 0
    _, status = site.status()
    assert "set flood4 is not as configured" in " ".join(found["text"] for found in status["findings"])
    site.start_router()
    soon(lambda: site.world.relay.call(outcome, SOMEBODY4, 25, 1.0) == 0, "the relay to send")


def test_what_packets_have_written_stays(site: Deployment) -> None:
    site.start_router()
    SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=["198.51.100.80"], destinations=[SOMEBODY4], count=20).wait()
    it_is_weeded_beside(site)
    found = json.loads(site.egressguard("hosts", "--json").stdout)
    assert found["198.51.100.80"]["attempts"] == 20
    assert "198.51.100.77" not in found


def it_is_weeded_beside(site: Deployment) -> None:
    nft(site, f"add element {TABLE} stranger4 {{ 198.51.100.77 timeout 9h, 198.51.100.78 timeout 2h }}")
    soon(lambda: "198.51.100.7" not in listed(site, "stranger4"), "the elements to be gone")
    assert "198.51.100.80" in listed(site, "stranger4")


def remake(site: Deployment, name: str) -> None:
    """The same table, chains and rules, but one set that is made in another way, as a whole."""
    old, new = REMADE[name]
    text = RULES.read_text("utf-8")
    assert old in text
    chains = site.world.router.run(["nft", "list", "chains", "inet"]).stdout
    flushes = "".join(f"flush chain {TABLE} {line.split()[1]}\n" for line in chains.splitlines() if line.startswith("\tchain "))
    nft(site, f"{flushes}delete set {TABLE} {name}\n{text.replace(old, new, 1)}")


def it_is_made_as_it_was(site: Deployment, name: str) -> None:
    before = declaration(site, name)
    remake(site, name)
    soon(lambda: declaration(site, name) == before, "the set as it was")
    soon(lambda: any(line["kind"] == "exposure" for line in history(site)), "the exposure")
    [line] = [line for line in history(site) if line["kind"] == "exposure"]
    assert "the table was edited, by nft (pid " in line["why"]
    assert site.status()[0] == 0
    assert site.egressguard("plan").stdout == ""


def declaration(site: Deployment, name: str) -> str:
    return listed(site, name).partition("elements =")[0].replace(" ", "")


@pytest.mark.parametrize("name", REMADE)
def test_a_set_that_is_made_anew_in_another_way_is_made_as_it_was(site: Deployment, name: str) -> None:
    site.start_router()
    SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[WEB2.ipv4], destinations=[SOMEBODY4], count=20).wait()
    it_is_made_as_it_was(site, name)
    assert attempts(site, WEB2) == 20, "other sets' counters stay"


def test_mutant_a_daemon_that_looks_at_rules_only_is_noticed(site: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOON_S", MUTANT_S)
    start_changed(site, "import egressguard.kernel.ruleset as r; r.read_declared = lambda netlink: {}")
    with pytest.raises((AssertionError, LabError)):
        it_is_made_as_it_was(site, "stranger4")


def test_mutant_a_daemon_that_never_looks_into_these_sets_is_noticed(site: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOON_S", MUTANT_S)
    start_changed(site, "from egressguard.upkeep import Upkeep; Upkeep._weed = lambda self: None")
    with pytest.raises((AssertionError, LabError)):
        it_is_weeded(site, "flood4")


def test_an_element_that_ends_like_a_packets_is_left_to_end(site: Deployment) -> None:
    """It cannot be told from one, and is over in a second."""
    site.start_router()
    nft(site, f"add element {TABLE} flood4 {{ {PLANTED['flood4']} }}")
    time.sleep(1.5)
    soon(lambda: "elements =" not in listed(site, "flood4"), "its end")
    assert not any("planted" in line["why"] for line in history(site))
