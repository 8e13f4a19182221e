"""Prometheus' own tools judge what the daemons serve; a caller that hangs costs no round."""

import json
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from lab import network
from lab.deployment import Deployment
from lab.namespaces import Namespace, wait_until
from lab.network import ROUTER_MAC, SOMEBODY4, SOMEBODY6, WEB2
from lab.syns import SynSource, Wire

FOLDER = Path(__file__).parents[2] / "contrib" / "prometheus"
ROUTER, RELAY = 9725, 9726
FORGER = "00:00:5e:00:53:99"
NAME = re.compile(r"\begressguard_\w+")


def scrape(host: Namespace, port: int, timeout_s: float = 20) -> str:
    with host.call(socket.create_connection, ("127.0.0.1", port), timeout_s) as caller:
        return asked(caller)


def asked(caller: socket.socket) -> str:
    caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    data = b""
    while piece := caller.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    return body.decode()


def heads(caller: socket.socket) -> str:
    """The answer's head; before the first round there is nothing to tell, and that is no error."""
    caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return caller.recv(1000).decode()


def value(text: str, series: str) -> float:
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{series} ")))


def promtool(*arguments: str, stdin: str = "") -> None:
    done = subprocess.run(["promtool", *arguments], input=stdin, text=True, capture_output=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr or arguments[0] != "check" or arguments[1] != "metrics", done.stderr


def test_both_daemons_serve_metrics_that_promtool_accepts_and_the_kernel_confirms(site: Deployment) -> None:
    site.start_router()
    site.start_milter()
    for destination in (SOMEBODY4, SOMEBODY6):
        with pytest.raises(ConnectionRefusedError):
            site.world.web2.call(socket.create_connection, (destination, 25), 5)
    wait_until(lambda: value(scrape(site.world.router, ROUTER), "egressguard_attempts_total") == 2, "two attempts")
    router, relay = scrape(site.world.router, ROUTER), scrape(site.world.relay, RELAY)
    for text in (router, relay):
        promtool("check", "metrics", stdin=text)
    assert value(router, "egressguard_enforcing") == 1
    assert value(relay, "egressguard_milter_healthy") == 1
    assert value(router, "egressguard_round_age_seconds") < 60
    assert "198.51.100" not in router + relay
    site.world.router.run(["nft", "flush", "ruleset"])
    wait_until(lambda: value(scrape(site.world.router, ROUTER), "egressguard_exposures_total") == 1, "the exposure")
    exported = {line.split()[2] for line in (router + relay).splitlines() if line.startswith("# TYPE")}
    check_expressions(exported)


def forge_three(site: Deployment) -> None:
    for wire, gateway, sources in ((site.world.web1, "web", WEB2.addresses), (site.world.mailserver, "dmz", network.RELAY.addresses[:1])):
        for source in sources:
            SynSource(wire, Wire("eth0", FORGER, ROUTER_MAC[gateway]), sources=[source], count=1,
                      destinations=[SOMEBODY6 if ":" in source else SOMEBODY4]).wait()


def forged(site: Deployment) -> dict[str, float]:
    """What the first answer says; later ones are a minute old."""
    wait_until(lambda: "egressguard_enforcing" in scrape(site.world.router, ROUTER), "a first round")
    text = scrape(site.world.router, ROUTER)
    assert FORGER not in text
    return {of: value(text, f'egressguard_forged_addresses{{of="{of}"}}') for of in ("host", "sender")}


@pytest.mark.parametrize("change", ["", "import egressguard.forgeries as f; f.read_forgeries = lambda settings: ([], [])"],
                         ids=["as it is", "mutant that looks at no MAC"])
def test_a_neighbours_forgeries_are_told_to_prometheus(site: Deployment, change: str) -> None:
    assert site.egressguard("apply").returncode == 0
    forge_three(site)
    site.change = change
    site.start_router()
    assert forged(site) == ({"host": 0, "sender": 0} if change else {"host": 2, "sender": 1})


def check_expressions(exported: set[str]) -> None:
    """Every series that the dashboard and the rules name is one that is exported."""
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    named = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named += re.findall(r"expr: (.*)", (FOLDER / "alerts.yml").read_text())
    assert len(named) > 30
    canary = {"egressguard_canary", "egressguard_canary_age_seconds"}  # only while one flies
    used = {name for expression in named for name in NAME.findall(expression)}
    assert used <= exported | canary
    with pytest.raises(AssertionError):
        assert {"egressguard_attemps_total"} <= exported | canary


def test_the_alert_rules_are_correct_and_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")
    rules, tests = ((FOLDER / name).read_text() for name in ("alerts.yml", "alerts_test.yml"))
    assert untested(rules, tests) == set()
    assert untested(rules.replace("EgressguardFault", "EgressguardNew"), tests) == {"EgressguardNew"}
    assert untested(rules, tests.replace("alertname: EgressguardFault\n        exp_alerts: []", "")) == {"EgressguardFault"}


def untested(rules: str, tests: str) -> set[str]:
    """The rules of which no test says when they fire, or none when they do not."""
    silent, firing = (set(re.findall(rf"alertname: (\w+)\n +exp_alerts:{end}\n", tests)) for end in (r" \[\]", ""))
    return set(re.findall(r"- alert: (\w+)", rules)) - (silent & firing)


def test_callers_that_hang_cost_no_round_and_are_hung_up_on(site: Deployment) -> None:
    site.start_router()
    hanging = [site.world.router.call(socket.create_connection, ("127.0.0.1", ROUTER), 5) for _ in range(3)]
    for caller in hanging:
        caller.sendall(b"GET /metr")
    before = site.status()[1]["daemon"]["round_age_s"]
    assert before < 5
    text = scrape(site.world.router, ROUTER, 60)  # served in its turn, after the hanging ones' deadlines
    assert value(text, "egressguard_rounds_total") > 0
    for caller in hanging:
        caller.close()


@pytest.mark.parametrize("where", ["unix", "ipv6", "off", "taken"])
def test_other_places(site: Deployment, tmp_path: Path, where: str) -> None:
    path = tmp_path / "metrics"
    setting = {"unix": f"unix:{path}", "ipv6": "[::1]:9725", "off": "", "taken": "127.0.0.1:9725"}[where]
    site.amend("router =", f'metrics = "{setting}"\nrouter =')
    if where == "taken":
        squatter = site.world.router.call(socket.create_server, ("127.0.0.1", 9725))
    router = site.start_router()
    if where == "unix":
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))
                assert "200 OK" in heads(caller)
            assert path.stat().st_mode & 0o777 == 0o660
            router.kill()
            router.wait()
            router = site.start_router()  # what the killed one has left is in nobody's way
            time.sleep(0.5)
    elif where == "ipv6":
        with site.world.router.call(socket.create_connection, ("::1", 9725), 5) as caller:
            assert "200 OK" in heads(caller)
    elif where == "taken":
        assert "no metrics at 127.0.0.1:9725" in site.log("egressguard")
        squatter.close()
    assert site.status()[0] == 0
