"""A verdict from real packets: explained, forgiven, and reached again by new evidence only."""

import json
from contextlib import closing

from egressguard.core.hosts import Host
from egressguard.core.volumes import Volume
from egressguard.database import Database
from egressguard.exchange import open_exchange
from egressguard.relay_records import volumes_of
from lab.deployment import Deployment
from lab.mail import send, send_burst
from lab.namespaces import wait_until
from lab.network import RELAY, WEB1, WEB2
from lab.postfix import Postfix
from lab.sink import Sink
from tests.netns.test_story import DOMAINS, LIMIT, address, bot, connects, relay, sink  # noqa: F401

WEB1_KEYS = {Host(WEB1.ipv4), Host("2001:db8:0:11::/64")}


def verdict(site: Deployment) -> str:
    return str(json.loads(site.egressguard("explain", "web2", "--json").stdout)["verdict"])


def test_a_verdict_is_explained_and_forgiven_and_comes_back_with_new_evidence_only(site: Deployment) -> None:
    site.start_router()
    assert "never tried" in site.egressguard("explain", WEB2.ipv4).stdout
    bot(site.world, 4, 12)
    wait_until(lambda: verdict(site) == "compromised", "the verdict")
    told = site.egressguard("explain", "web2").stdout
    assert "web2 (198.51.100.12) is compromised" in told
    assert "looks like a spambot" in told
    assert "new destinations: 203.0.113." in told, "sample destinations"
    found = json.loads(site.egressguard("explain", WEB2.ipv6, "--json").stdout)
    assert (found["cause"], found["hold_proposed"]) == ("spambot", False)
    assert sum(c["count"] for c in found["contributions"]) <= 12

    done = site.egressguard("release", "web2", "--reason", "cleaned")
    assert (done.returncode, done.stdout) == (0, "forgiven: 198.51.100.12\n"), done.stderr
    bot(site.world, 4, 12)
    wait_until(lambda: site.status()[1]["hosts"][WEB2.ipv4]["attempts"] >= 24, "the attempts")
    assert verdict(site) == "clean"
    for n in range(16):
        assert not site.world.web2.call(connects, f"203.0.113.{200 + n}")
    wait_until(lambda: verdict(site) == "compromised", "the verdict on new evidence")
    lines = json.loads(site.egressguard("history", "web2", "--json").stdout)
    assert [e["after"] or e["kind"] for e in lines] == [
        "suspect", "compromised", "release", "suspect", "clean", "suspect", "compromised"]


def test_a_release_outlives_the_daemon(site: Deployment) -> None:
    router = site.start_router()
    bot(site.world, 4, 12)
    wait_until(lambda: verdict(site) == "compromised", "the verdict")
    router.terminate()
    router.wait(10)
    assert site.egressguard("release", "web2", "--reason", "cleaned").returncode == 0
    site.start_router()
    assert site.status()[1]["hosts"][WEB2.ipv4]["verdict"] == "clean"


def test_a_release_outlives_a_sigkill_and_a_new_table_as_after_a_reboot(site: Deployment) -> None:
    """With the table everything is gone that the kernel knew of destinations: only the verdict's memory has them."""
    router = site.start_router()
    bot(site.world, 4, 12)
    wait_until(lambda: verdict(site) == "compromised", "the verdict")
    assert site.egressguard("release", "web2", "--reason", "cleaned").returncode == 0
    router.kill()
    router.wait(10)
    site.world.router.run(["nft", "flush ruleset"])
    site.start_router()
    bot(site.world, 4, 12)

    def counted() -> int:
        return int(json.loads(site.egressguard("explain", "web2", "--json").stdout)["attempts"])
    wait_until(lambda: counted() >= 24, "the attempts")  # a slow machine repeats a SYN: that is one more
    assert verdict(site) == "clean"
    others = iter(range(200, 250))

    def tried_more() -> str:
        assert not site.world.web2.call(connects, f"203.0.113.{next(others)}")
        return verdict(site)
    # How many it takes depends on how evenly a slow machine spaces them: that is measured by `script/bench judge`.
    wait_until(lambda: tried_more() == "compromised", "the verdict on new evidence")


def test_a_bot_on_a_host_that_mails_is_limited_while_it_is_not_known_to_be_one(
        relay: Postfix, site: Deployment, sink: Sink) -> None:  # noqa: F811
    """Relays are told the worse of two possibilities, people that it is open; a release ends it."""
    wait_until(lambda: site.status()[1]["relays"].get("relay", {}).get("fresh"), "a first report")
    for domain in DOMAINS:
        assert send(site.world.web2, address(RELAY, 4), recipients=[f"x@{domain}"]).accepted
    wait_until(lambda: sum(v.accepted for v in kept(site)) == len(DOMAINS), "history", timeout_s=120)
    bot(site.world, 4, 12)

    def tier() -> str:
        return str(site.status()[1]["hosts"][WEB2.ipv4]["tier"])
    wait_until(lambda: tier() == "tightened", "the limit at the relay")
    standing = site.status()[1]["hosts"][WEB2.ipv4]
    assert (standing["verdict"], verdict(site)) == ("clean", "clean")
    wait_until(lambda: "a spambot, or a mail server that has lost its way" in site.egressguard("explain", "web2").stdout,
               "what explain reads")
    assert site.egressguard("release", "web2", "--reason", "a test of ours").returncode == 0
    wait_until(lambda: tier() == "normal", "the base limit")


def kept(site: Deployment) -> list[Volume]:
    """What the router has weighed of relays' reports and written down."""
    with closing(Database(site.folder / "router.db", "", read_only=True)) as database:
        return [v for windows in volumes_of(database).values() for v in windows.values()]


def test_an_unknown_name_says_what_would_be_right(site: Deployment) -> None:
    done = site.egressguard("explain", "web9")
    assert done.returncode == 4
    assert "'web9' is neither an address nor a name of the inventory" in done.stderr


def test_what_a_real_relay_reports_is_history_to_tune_from(
        relay: Postfix, site: Deployment, sink: Sink) -> None:  # noqa: F811
    """As many messages as the limit lets pass, and two more: the router's history has them."""
    wait_until(lambda: site.status()[1]["relays"].get("relay", {}).get("fresh"), "a first report")
    send_burst(site.world.web1, address(RELAY, 4), LIMIT + 2, recipients=["x@six.example"])

    def told() -> bool:
        with closing(open_exchange(site.exchange_url, read_only=True)) as exchange:
            clients = [c for report in exchange.reports() for h, c in report.clients.items() if h in WEB1_KEYS]
            return sum(c.accepted for c in clients) == LIMIT
    wait_until(told, "the report of them")

    wait_until(lambda: sum(v.accepted for v in kept(site)) == LIMIT, "history", timeout_s=90)
    assert sum(v.deferred for v in kept(site)) >= 2
    assert sum(v.connections for v in kept(site)) >= 1 <= max(v.most_open for v in kept(site))
    assert max(v.most_messages for v in kept(site)) >= 1
    done = site.egressguard("tune")
    assert (done.returncode, "198.51.100.11 web1\n  messages: no proposal, too little history" in done.stdout) == (0, True), done.stderr
