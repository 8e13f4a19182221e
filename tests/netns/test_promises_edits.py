"""Whatever somebody edits in our tables behind egressguard's back is put right within seconds: every kind of harm to every
chain, set and map that the kernel lists, with everything configured that there is.
"""

import random
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from egressguard.kernel.netlink import Netlink
from egressguard.kernel.ruleset import read_generation
from lab.deployment import Deployment
from lab.namespaces import wait_until
from tests.netns import mutations
from tests.netns.mutations import Edit, Listing, Reader, same
from tests.netns.test_own_cgroup import NAME, group
from tests.netns.test_promises_foreign import PATIENCE, percentile, start_changed
from tests.promises import promise

__all__ = ["group"]  # a fixture
DETECTED_S = 5.0
EVERYTHING = f"""
[[bridge]]
name = "br0"
ports = ["vnet*"]
networks = ["192.0.2.128/26", "2001:db8:7::/60"]

[[sender]]
name = "guest"
addresses = ["192.0.2.130", "2001:db8:7:1::2"]

[[sender]]
name = "tied"
addresses = ["198.51.100.50", "2001:db8:0:14::2", "192.0.2.131", "2001:db8:7:2::2"]
mac = "00:00:5e:00:53:1e"

[[host]]
name = "machine"
addresses = ["192.0.2.132", "2001:db8:7:3::2"]

[[group]]
name = "customers"
networks = ["198.51.100.128/25", "2001:db8:0:11::/64"]
mode = "observe"
also_count = [465]

[[group]]
name = "strict"
networks = ["198.51.100.64/26", "2001:db8:0:13::/64"]
mode = "enforce"
also_block = [587]
answer = "redirect"

[own]
guard = true
users = ["nobody"]
relays = ["192.0.2.10", "2001:db8:0:a::2"]
cgroups = ["{NAME}"]

[redirect]
relays = ["192.0.2.10", "2001:db8:0:a::2"]

[sinkhole]
enabled = true

[last_line]
interfaces = ["wan"]
"""
BRIDGES = ("link add br0 type bridge", "link add vnet1 type veth peer name machine1", "link set vnet1 master br0", "link set vnet1 up",
           "link set br0 up", "link add br1 type bridge", "link add other1 type veth peer name machine2", "link set other1 master br1")
ORDERS = ("allow 198.51.100.12", "allow 192.0.2.132", "allow 198.51.100.11 --to 203.0.113.130",
          "allow 2001:db8:0:11::2 --to 2001:db8:ffff::1", "quarantine 198.51.100.77", "quarantine 192.0.2.133", "open")


@pytest.fixture
def busy(site: Deployment, group: Path) -> Deployment:
    """Every table, and hardly a set that is empty; not started."""
    site.world.router.ip(*BRIDGES)
    site.amend('"2001:db8:0:12::/64"]', '"2001:db8:0:12::/64", "2001:db8:0:13::/64", "2001:db8:0:14::/64"]')
    site.amend("", EVERYTHING)
    return site


def order_all(site: Deployment) -> None:
    for order in ORDERS:
        done = site.egressguard(*order.split(), "--for", "1h", "--reason", "a test")
        assert done.returncode == 0, done.stderr


def detect_edits(site: Deployment, chosen: Sequence[Edit], bound_s: float, dice: random.Random) -> list[float]:
    """The seconds until each edit was put right, sorted; fails naming the first that was not within the bound.

    Nothing counts as put right before somebody else has changed something: an edit that edits nothing would be missed.
    """
    router, took = site.world.router, []
    netlink, reader = router.call(Netlink), Reader(router)
    listing = Listing(reader)
    right = listing.state()
    try:
        for edit in chosen:
            text, before = mutations.again(listing, edit, dice), read_generation(netlink)
            router.run(["nft", "-f", "-"], stdin=text)
            began_s = time.monotonic()
            while read_generation(netlink) < before + 2 or not same((listing := Listing(reader)).state(), right):
                if time.monotonic() - began_s > bound_s:
                    pytest.fail(f"not put right within {bound_s} s: {edit.kind}: {edit.target}: {text[:200]}\n"
                                f"{mutations.difference(Listing(reader).state(), right)}")
                time.sleep(0.01)
            took.append(time.monotonic() - began_s)
    finally:
        netlink.close()
    return sorted(took)


def test_every_edit_behind_its_back_is_put_right(busy: Deployment, full: bool) -> None:
    times, dice = 1000 if full else 80, random.Random(1)
    busy.start_router()
    order_all(busy)
    listing = Listing(Reader(busy.world.router))
    before, edits = busy.status()[0], mutations.possible(listing, dice)
    judge_range(listing, edits)
    chosen = mutations.schedule(edits, dice, times)
    assert {(e.family, e.kind) for e in chosen} == {(e.family, e.kind) for e in edits}, "every kind of harm to every table"
    if full:
        assert listing.objects.keys() <= {edit.target for edit in chosen}, "every chain, set and map"
    took = detect_edits(busy, chosen, DETECTED_S if full else DETECTED_S * PATIENCE, dice)
    assert busy.status()[0] == before
    promise(5, "edits of the tables behind its back that were detected and put right within 5 s", f"{len(took)} (slowest "
            f"{took[-1]:.2f} s, median {percentile(took, 0.5) * 1000:.0f} ms)", times,
            f"{times} random edits of {len({e.target for e in chosen})} of {len(listing.objects)} chains, sets and maps in "
            f"{len(listing.tables)} tables; not of elements as packets write them ({len(mutations.TRAFFIC)} sets)")


def judge_range(listing: Listing, edits: Sequence[Edit]) -> None:
    """Nothing is left out but what is known to be."""
    assert listing.tables.keys() == {"inet", "bridge", "netdev"}
    assert listing.objects.keys() <= {edit.target for edit in edits}
    dynamic = {target.split()[-1] for target, text in listing.declared().items() if re.search(r"flags .*dynamic", text)}
    assert dynamic == mutations.TRAFFIC, "what packets write, and only that, may change unseen"


REMADE = {"a set of another size", "a set with times", "a map of another size"}
MUTANTS = {
    "rules": ("r._fingerprint = lambda netlink, chains: ''", set(mutations.CHAIN_KINDS)),
    "what the files fill": ("r.CONSTANTS = ()", set(mutations.MAP_KINDS) - REMADE),
    "hooks": ("r._hook = lambda *_: ''", {"another policy", "another priority"}),
    "elements": ("D.differing = lambda self, *_: ()", set(mutations.SET_KINDS) - REMADE - {"an element planted"}),
    "tables beside the router's": ("E.ensure = lambda self, now_s: self.router.ensure(now_s)", {"a chain flushed", "an element added"}),
    "how sets are made": ("r.read_declared = lambda netlink: {}", REMADE),
    "what packets write": ("U._weed = lambda self: None", {"an element planted"}),
    "times": ("D._timed = lambda self, changes, *_: changes", {"another time"}),
}


@pytest.mark.parametrize("blind", MUTANTS)
def test_mutant_a_daemon_that_does_not_look_at(busy: Deployment, blind: str) -> None:
    change, kinds = MUTANTS[blind]
    busy.start_router().kill()  # what is loaded at the start is right
    start_changed(busy, "import egressguard.kernel.ruleset as r; from egressguard.enforcement import Enforcement as E; "
                        f"from egressguard.desired import Desired as D; from egressguard.upkeep import Upkeep as U; {change}")
    wait_until(lambda: busy.status()[1]["rules_intact"] is not None, "a first round")
    dice = random.Random(1)
    chosen = [edit for edit in mutations.possible(Listing(Reader(busy.world.router)), dice) if edit.kind in kinds]
    dice.shuffle(chosen)
    with pytest.raises(pytest.fail.Exception, match="not put right"):
        detect_edits(busy, chosen[:40], 3.0, dice)
