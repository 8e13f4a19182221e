"""What is refused may be led elsewhere: to the relay, which limits it, or to a listener that proves who asks. It is
counted once under the destination that it was meant for; nobody who may, nobody quarantined and nothing observed is led."""

import errno
import json
import shutil
import signal
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egressguard.core.ruleset import DESTINATIONS
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.sets import read_elements
from lab.deployment import Deployment
from lab.firewall import RULES
from lab.mail import Reply, send
from lab.namespaces import LabError, impatient, wait_until
from lab.network import MAILSERVER, RELAY, ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB1, WEB2
from lab.sink import Sink
from lab.sniffer import Sniffer
from lab.syns import SynSource, Wire
from tests.netns.test_firewall import WEB1_NETWORK, attempts, both_families, outcome, say
from tests.promises import promise

SOMEBODY = {4: SOMEBODY4, 6: SOMEBODY6}
TO_RELAY = f'[redirect]\nrelays = ["{RELAY.ipv4}", "{RELAY.ipv6}"]'


@pytest.fixture
def sink(site: Deployment) -> Iterator[Sink]:
    with Sink(site.world.outside) as listening:
        yield listening


@pytest.fixture
def relayed(site: Deployment) -> Iterator[Sink]:
    """Postfix's sink as the relay's server: who connects, and with what, is seen."""
    with Sink(site.world.relay) as listening:
        yield listening


def redirected(site: Deployment) -> None:
    site.amend('mode = "enforce"', 'mode = "enforce"\nanswer = "redirect"')
    site.amend("", TO_RELAY)


def mail(site: Deployment, place: str, family: int) -> Reply:
    host = getattr(site.world, place)
    return send(host, SOMEBODY[family], recipients=["x@example.net"], subject=f"from {place}", timeout_s=60)


def destinations(site: Deployment) -> dict[tuple[str, ...], int]:
    netlink = site.world.router.call(Netlink)
    try:
        return {e: n for name, fields in DESTINATIONS.items() for e, n in read_elements(netlink, name, fields).items()}
    finally:
        netlink.close()


@both_families
def test_a_web_servers_mail_arrives_at_the_relay_and_is_one_attempt_of_the_true_destination(
        site: Deployment, sink: Sink, relayed: Sink, family: int) -> None:
    redirected(site)
    site.start_router()
    with Sniffer(site.world.outside, "eth0") as outside:
        assert mail(site, "web2", family).accepted
        assert outside.stop() == []
    message, = relayed.wait_for(1)
    assert message.client == WEB2.addresses[family == 6], "the relay sees who it is, so its limits are that host's"
    assert attempts(site, WEB2) == 1
    host = WEB2.ipv4 if family == 4 else "2001:db8:0:12::"
    assert destinations(site) == {(host, SOMEBODY[family]): 1}
    totals = site.status()[1]["totals"]
    assert (totals["redirected"], totals["attempts"], totals["blocked"]) == (1, 1, 0)
    assert site.status()[0] == 0


@both_families
def test_senders_exceptions_and_mode_observe_are_not_led(site: Deployment, sink: Sink, relayed: Sink, family: int) -> None:
    redirected(site)
    site.start_router()
    assert mail(site, "relay", family).accepted
    assert mail(site, "mailserver", family).accepted
    say(site, "allow", WEB2.ipv4, "--for", "60s", "--reason", "a test")
    assert mail(site, "web2", family).accepted
    assert len(sink.wait_for(3)) == 3
    assert relayed.messages() == []


@both_families
def test_what_is_observed_goes_where_it_wants(site: Deployment, sink: Sink, relayed: Sink, family: int) -> None:
    redirected(site)
    site.amend('mode = "enforce"', 'mode = "observe"')
    site.start_router()
    assert mail(site, "web2", family).accepted
    assert len(sink.wait_for(1)) == 1
    assert (relayed.messages(), attempts(site, WEB2)) == ([], 1)


@both_families
def test_a_quarantined_host_is_refused_and_not_led(site: Deployment, sink: Sink, relayed: Sink, family: int) -> None:
    redirected(site)
    site.start_router()
    say(site, "quarantine", WEB2.ipv4, "--for", "60s", "--reason", "a test")
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    assert relayed.messages() == []
    assert attempts(site, WEB2) == 1


@both_families
def test_a_host_beside_the_relay_is_refused_instead(site: Deployment, relayed: Sink, family: int) -> None:
    """The relay would answer it directly, and it would not know the answer."""
    redirected(site)
    text = site.router_config.read_text()
    start = text.index(f'[[sender]]\nname = "{MAILSERVER.name}"')
    site.router_config.write_text(text[:start] + text[start:].replace("[[sender]]", "[[host]]", 1))
    site.start_router()
    assert site.world.mailserver.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    assert attempts(site, MAILSERVER) == 1
    assert site.world.mailserver.call(outcome, RELAY.addresses[family == 6]) == 0


@both_families
def test_only_the_group_that_says_so_is_led(site: Deployment, relayed: Sink, family: int) -> None:
    site.amend("", f'[[group]]\nname = "led"\nnetworks = ["{WEB1_NETWORK[family]}"]\nanswer = "redirect"\n{TO_RELAY}')
    site.start_router()
    assert mail(site, "web1", family).accepted
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED
    assert (attempts(site, WEB1), attempts(site, WEB2)) == (1, 1)


def test_a_relay_of_one_family_leads_that_family(site: Deployment, relayed: Sink) -> None:
    redirected(site)
    site.amend(TO_RELAY, f'[redirect]\nrelays = ["{RELAY.ipv4}"]')
    site.start_router()
    assert mail(site, "web2", 4).accepted
    assert site.world.web2.call(outcome, SOMEBODY6) == errno.ECONNREFUSED


def test_turning_it_off_leaves_nothing_behind(site: Deployment, relayed: Sink) -> None:
    redirected(site)
    router = site.start_router()
    site.amend('answer = "redirect"', 'answer = "reset"')
    router.send_signal(signal.SIGHUP)
    wait_until(lambda: "dnat" not in site.world.router.run(["nft", "list", "ruleset"]).stdout, "the chains to be gone")
    assert site.world.web2.call(outcome, SOMEBODY4) == errno.ECONNREFUSED


# Handshakes that no neighbour can forge.

def listening(site: Deployment) -> None:
    site.amend("", "[sinkhole]\nenabled = true")


def proofs(site: Deployment) -> list[str]:
    return [line for line in site.log("egressguard").splitlines() if "handshake source=" in line]


def refused_politely(host: str) -> int:
    try:
        smtplib.SMTP(host, timeout=60)
    except smtplib.SMTPConnectError as error:
        return error.smtp_code
    except OSError as error:
        return error.errno or -1
    return 0


@both_families
def test_twenty_of_twenty_real_connections_are_verified_and_each_is_one_attempt(site: Deployment, sink: Sink, family: int) -> None:
    listening(site)
    site.start_router()
    with Sniffer(site.world.outside, "eth0") as outside:
        codes = [site.world.web2.call(refused_politely, SOMEBODY[family]) for _ in range(20)]
        assert outside.stop() == []
    assert codes == [421] * 20
    wait_until(lambda: len(proofs(site)) == 20, "twenty proofs")
    promise(12, f"handshakes of a real bot that were verified, IPv{family}", len(proofs(site)), 20, "20 connections")
    assert all(f"source={WEB2.addresses[family == 6]} destination={SOMEBODY[family]}" in line for line in proofs(site))
    assert attempts(site, WEB2) == 20
    assert site.world.web2.call(outcome, SOMEBODY[family]) == errno.ECONNREFUSED, "twenty an hour, then as usual"
    assert attempts(site, WEB2) == 21


@both_families
def test_forged_connections_are_never_verified_and_cannot_fill_the_listener(site: Deployment, sink: Sink, family: int) -> None:
    """web1 sends in web2's name; the answers go to web2, which knows nothing of them."""
    listening(site)
    site.start_router()
    forged = SynSource(site.world.web1, Wire("eth0", WEB1.mac, ROUTER_MAC["web"]), sources=[WEB2.addresses[family == 6]],
                       destinations=[SOMEBODY[family]], count=5000, per_second=5000)
    with Sniffer(site.world.outside, "eth0") as outside:
        assert forged.wait() == 5000
        assert outside.stop() == []
    assert proofs(site) == []
    promise(12, f"handshakes verified of SYNs forged by a neighbour, IPv{family}", len(proofs(site)), 0, "5,000 SYNs")
    assert attempts(site, WEB2) == 5000
    assert site.status()[1]["totals"]["sinkholed"] <= 20
    assert site.world.web1.call(refused_politely, SOMEBODY[family]) == 421
    wait_until(lambda: len(proofs(site)) == 1, "one proof")


@both_families
def test_senders_and_what_is_observed_are_never_held_up(site: Deployment, sink: Sink, family: int) -> None:
    listening(site)
    site.start_router()
    assert mail(site, "relay", family).accepted
    say(site, "allow", WEB2.ipv4, "--for", "60s", "--reason", "a test")
    assert mail(site, "web2", family).accepted
    assert proofs(site) == []


def test_without_the_daemon_the_listeners_connections_are_refused(site: Deployment, sink: Sink) -> None:
    listening(site)
    router = site.start_router()
    router.terminate()
    router.wait()
    assert site.world.web2.call(outcome, SOMEBODY4) == errno.ECONNREFUSED
    assert attempts(site, WEB2) == 1


def test_a_taken_port_is_a_finding_and_nothing_opens(site: Deployment, sink: Sink) -> None:
    site.world.router.popen(["python3", "-c", "import socket, time; s = socket.create_server(('', 10025)); time.sleep(60)"])
    wait_until(lambda: site.world.router.listens(10025, ipv6=False), "the port to be taken")
    listening(site)
    site.start_router()
    wait_until(lambda: "sinkhole: listening on port 10025" in json.dumps(site.status()[1]["findings"]), "the finding")


# Each defence of redirect.nft is taken away once, and the test that stands for it fails.

MUTANTS: dict[str, tuple[str, str, Callable[..., None], tuple[str, ...]]] = {
    "that counts no attempt of who is led": (
        "chain lead {\n\t\tjump attempt\n", "chain lead {\n",
        test_a_web_servers_mail_arrives_at_the_relay_and_is_one_attempt_of_the_true_destination, ("sink", "relayed")),
    "that leads exceptions": (
        "\t\tiifname . ip saddr @exception4 return\n", "",
        test_senders_exceptions_and_mode_observe_are_not_led, ("sink", "relayed")),
    "that leads what is observed": (
        "\t\tmeta nfproto @observed_family return\n", "", test_what_is_observed_goes_where_it_wants, ("sink", "relayed")),
    "that leads the quarantined": (
        "\t\tip saddr @quarantine4 return\n", "", test_a_quarantined_host_is_refused_and_not_led, ("sink", "relayed")),
    "that leads hosts beside the relay": (
        "\t\tiifname @relay_if return\n", "", test_a_host_beside_the_relay_is_refused_instead, ("relayed",)),
    "that leads every group": (
        "\t\tth dport . ip saddr @redirect4 goto lead\n", "\t\tmeta nfproto ipv4 goto lead\n",
        test_only_the_group_that_says_so_is_led, ("relayed",)),
    "that counts no attempt of who is proved": (
        "chain sink {\n\t\tjump attempt\n", "chain sink {\n",
        test_twenty_of_twenty_real_connections_are_verified_and_each_is_one_attempt, ("sink",)),
    "that lets a forger fill the listener": (
        "limit rate 20/hour burst 20 packets } goto sink", "} goto sink",
        test_forged_connections_are_never_verified_and_cannot_fill_the_listener, ("sink",)),
    "that holds senders up": (
        "\t\tiifname . ip saddr @allow4 return\n", "", test_senders_and_what_is_observed_are_never_held_up, ("sink",)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_ruleset_is_noticed(site: Deployment, request: pytest.FixtureRequest, tmp_path: Path, mutant: str) -> None:
    old, new, check, fixtures = MUTANTS[mutant]
    folder = tmp_path / "rules"
    shutil.copytree(RULES.parent, folder)
    text = (folder / "redirect.nft").read_text("utf-8")
    assert old in text
    (folder / "redirect.nft").write_text(text.replace(old, new))
    site.amend('rules = ""', f'rules = "{folder}"')
    given = [request.getfixturevalue(name) for name in fixtures]
    with impatient(), pytest.raises((AssertionError, ValueError, LabError)):
        check(site, *given, 4)
