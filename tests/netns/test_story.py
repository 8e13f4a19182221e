"""The steps of the story, each alone and in both families, on real packets."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab.deployment import MILTER_PORT, Deployment
from lab.mail import send, send_burst
from lab.namespaces import wait_until
from lab.network import INSIDE, MAILSERVER, RELAY, SOMEBODY4, SOMEBODY6, WEB1, WEB2, Place, World, answers
from lab.postfix import Postfix
from lab.sink import Sink
from lab.sniffer import Sniffer

SMTP = 25
SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
PREFIX = {4: "203.0.113.", 6: "2001:db8:ffff::"}
LIMIT = 20
DOMAINS = ("somewhere.example", "elsewhere.example", "anywhere.example", "nowhere.example")

both_families = pytest.mark.parametrize("family", [4, 6])


def address(place: Place, family: int) -> str:
    return place.ipv4 if family == 4 else place.ipv6


def connects(destination: str, source: str = "", port: int = SMTP) -> bool:
    origin = (source, 0) if source else None
    try:
        socket.create_connection((destination, port), timeout=5, source_address=origin).close()
    except OSError:
        return False
    return True


def bot(world: World, family: int, destinations: int) -> None:
    for n in range(destinations):
        assert not world.web2.call(connects, f"{PREFIX[family]}{130 + n}")


@pytest.fixture
def sink(fresh_world: World) -> Iterator[Sink]:
    with Sink(fresh_world.outside) as listening:
        yield listening


@pytest.fixture
def relay(site: Deployment, sink: Sink, tmp_path: Path) -> Iterator[Postfix]:
    """The whole site: router, milter, Postfix."""
    site = Deployment(site.world, tmp_path, messages=LIMIT)
    site.start_router()
    site.start_milter()
    with Postfix(site.world.relay, networks=("198.51.100.0/24", "[2001:db8::]/32"), milter=MILTER_PORT,
                 routes=dict.fromkeys(DOMAINS, SOMEBODY4) | {"six.example": SOMEBODY6}) as postfix:
        yield postfix


@both_families
def test_the_road_is_open_before_and_shut_after(site: Deployment, sink: Sink, family: int) -> None:
    for place in INSIDE:
        assert site.world.namespace(place).call(connects, SOMEBODY[family])
    site.start_router()
    open_to = {p.name for p in INSIDE if site.world.namespace(p).call(connects, SOMEBODY[family])}
    assert open_to == {"relay", "mailserver"}


@both_families
def test_what_is_not_smtp_is_not_our_business(site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    with Sink(site.world.outside, port=2525):
        assert site.world.web2.call(connects, SOMEBODY[family], "", 2525)
    assert site.world.web2.call(answers, SOMEBODY[family])


@both_families
def test_smtp_between_inside_hosts_stays_open(site: Deployment, family: int) -> None:
    site.start_router()
    with Sink(site.world.relay):
        assert site.world.web2.call(connects, address(RELAY, family))


@both_families
def test_mail_from_outside_still_comes_in(site: Deployment, family: int) -> None:
    site.start_router()
    with Sink(site.world.mailserver):
        assert site.world.outside.call(connects, address(MAILSERVER, family))


@both_families
def test_every_direct_attempt_is_blocked_and_counted_exactly(site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    with Sniffer(site.world.web2, "eth0", direction="out") as left, \
            Sniffer(site.world.outside, "eth0", direction="in") as arrived:
        bot(site.world, family, 25)
        sent = sum(p.pure_syn for p in left.stop())
        assert [p for p in arrived.stop() if p.source in WEB2.addresses] == []
    assert sent == 25, "one connect() is one attempt, thanks to the reset"
    _, status = site.status()
    assert status["totals"]["attempts"] == status["totals"]["blocked"] == sent
    host = status["hosts"][WEB2.ipv4]
    assert (host["attempts"], host["fan_out"]) == (25, 25)


@both_families
def test_a_senders_address_is_worth_nothing_on_another_interface(
        site: Deployment, sink: Sink, family: int) -> None:
    site.start_router()
    stolen = address(RELAY, family)
    site.world.web2.ip(f"address add {stolen}/{32 if family == 4 else 128} dev eth0")
    with Sniffer(site.world.outside, "eth0", direction="in") as arrived:
        site.world.web2.call(_knock, stolen, SOMEBODY[family])
        wait_until(lambda: site.status()[1]["totals"]["spoofed"] > 0, "spoofed packets in the counter")
        assert [p for p in arrived.stop() if p.source == stolen] == []
    status = site.status()[1]
    assert address(RELAY, family) not in json.dumps(status["hosts"]), "a spoofed source is no host's attempt"


def _knock(source: str, destination: str) -> None:
    """One SYN from a borrowed address; its answer goes to the owner, so nobody waits for it."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(0.2)
        client.bind((source, 0))
        with suppress(OSError):
            client.connect((destination, SMTP))


@both_families
def test_the_verdict_rises_and_the_relay_changes_the_limit(relay: Postfix, site: Deployment, family: int) -> None:
    assert site.status()[1]["hosts"] == {}
    bot(site.world, family, 8)
    wait_until(lambda: site.status()[1]["hosts"][WEB2.ipv4]["tier"] == "tightened", "a tightened tier")
    assert site.status()[0] == 1
    history = json.loads(site.egressguard("history", WEB2.ipv4, "--json").stdout)
    assert [(e["before"], e["after"]) for e in history] == [("clean", "suspect"), ("suspect", "compromised")]
    codes = [r.code for r in send_burst(site.world.web2, address(RELAY, family), LIMIT, recipients=["x@six.example"])]
    assert codes == [250] * (LIMIT // 10) + [451] * (LIMIT - LIMIT // 10)
    other = address(RELAY, 10 - family)
    assert send(site.world.web2, other, recipients=["x@six.example"]).code == 250
    codes = [r.code for r in send_burst(site.world.web1, address(RELAY, family), LIMIT, recipients=["x@six.example"])]
    assert codes == [250] * LIMIT, "the healthy web server is untouched"


@both_families
def test_permitted_mail_reaches_the_sink(relay: Postfix, site: Deployment, sink: Sink, family: int) -> None:
    domain = "somewhere.example" if family == 4 else "six.example"
    assert send(site.world.web1, address(RELAY, family), recipients=[f"x@{domain}"], subject="via relay").accepted
    assert send(site.world.mailserver, SOMEBODY[family], recipients=[f"x@{domain}"], subject="direct").accepted
    assert {(m.subject, m.client) for m in sink.wait_for(2)} == {
        ("via relay", address(RELAY, family)), ("direct", address(MAILSERVER, family))}


@both_families
def test_observe_blocks_nothing_and_counts_all(site: Deployment, sink: Sink, family: int) -> None:
    site.write_router_config("observe")
    router = site.start_router()
    for n in range(10):
        assert site.world.web2.call(connects, f"{PREFIX[family]}{130 + n}")
    wait_until(lambda: site.status()[1]["hosts"][WEB2.ipv4]["verdict"] == "compromised", "the verdict")
    code, status = site.status()
    assert (code, status["mode"], status["hosts"][WEB2.ipv4]["attempts"]) == (3, "observe", 10)

    site.write_router_config("enforce")
    router.send_signal(signal.SIGHUP)
    wait_until(lambda: site.status()[1]["mode"] == "enforce", "mode enforce")
    assert not site.world.web2.call(connects, SOMEBODY[family])
    assert site.status()[1]["hosts"][WEB2.ipv4]["attempts"] == 11, "switching loses no count"


def test_a_bad_reload_keeps_the_settings_in_force(site: Deployment) -> None:
    router = site.start_router()
    site.router_config.write_text(site.router_config.read_text().replace("192.0.2.10", "203.0.113.10"))
    router.send_signal(signal.SIGHUP)
    wait_until(lambda: "not reloaded" in site.log("egressguard"), "the complaint")
    assert "203.0.113.10 lies behind no inside interface" in site.log("egressguard")
    site.router_config.write_text(site.router_config.read_text().replace("203.0.113.10", "192.0.2.10"))
    assert site.status()[0] == 0


def test_strangers_are_counted_too(site: Deployment) -> None:
    Deployment(site.world, site.folder, inventory=[WEB1])
    site.start_router()
    bot(site.world, 4, 6)
    bot(site.world, 6, 6)
    wait_until(lambda: len(site.status()[1]["hosts"]) == 2, "two strangers")
    assert {h: v["attempts"] for h, v in site.status()[1]["hosts"].items()} == {
        WEB2.ipv4: 6, "2001:db8:0:12::/64": 6}
