"""Alerts on their way: a real mail server and a real web server get them, once they are there, and no round waits."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.deployment import Deployment
from lab.namespaces import Namespace, wait_until
from lab.network import MAILSERVER, ROUTER_MAC, WEB2
from lab.sink import Sink
from lab.syns import SynSource, Wire

WEBHOOK_PORT = 8080
TO = "noc@example.org"


@contextmanager
def web_server(host: Namespace, status: int = 204) -> Iterator[list[dict[str, Any]]]:
    """What was posted to a web server in `host`."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = host.call(HTTPServer, ("0.0.0.0", WEBHOOK_PORT), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site(site: Deployment, tmp_path: Path) -> Deployment:
    script = tmp_path / "on-alert"
    script.write_text(f"#!/bin/sh\ncat >>{tmp_path}/alerts.json\necho >>{tmp_path}/alerts.json\ncat /proc/self/status >{tmp_path}/status\necho $PPID >{tmp_path}/parent\n")
    script.chmod(0o755)
    site.amend("", f"""
[notify]
mail_to = ["{TO}"]
mail_from = "egressguard@example.org"
mail_server = "{MAILSERVER.ipv4}"
webhook = "http://{MAILSERVER.ipv4}:{WEBHOOK_PORT}/hook"
command = ["{script}"]
""")
    return site


def spam(site: Deployment, count: int = 12) -> None:
    """web2 tries many destinations."""
    SynSource(site.world.web2, Wire("eth0", WEB2.mac, ROUTER_MAC["web"]), sources=[WEB2.ipv4],
              destinations=["203.0.113.128/28"], count=count, per_second=200).wait()


def commanded(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "alerts.json"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def test_a_compromised_host_is_told_by_every_channel_with_its_evidence(site: Deployment, tmp_path: Path) -> None:
    with Sink(site.world.mailserver) as sink, web_server(site.world.mailserver) as posted:
        site.start_router()
        spam(site)
        mail = sink.wait_for(1)[0]
        wait_until(lambda: bool(posted and commanded(tmp_path)), "webhook and command")
    assert mail.recipients == (TO,)
    assert "web2 (198.51.100.12) looks compromised" in mail.subject
    assert "203.0.113.1" in mail.text
    facts = posted[0]["facts"]
    assert (posted[0]["kind"], facts["host"], facts["after"], facts["ports"]) == ("verdict", WEB2.ipv4, "compromised", [25])
    assert facts["destinations"]
    assert facts["macs"] == [WEB2.mac]
    assert [a["facts"]["host"] for a in commanded(tmp_path)] == [WEB2.ipv4]
    capabilities = [line.split()[1] for line in (tmp_path / "status").read_text().splitlines() if line.startswith(("CapEff", "CapPrm"))]
    assert capabilities == ["0" * 16] * 2, "whoever delivers has no rights over the rules"
    assert json.loads(site.egressguard("notify", "--json").stdout) == []


def test_nothing_is_lost_while_nobody_listens_and_the_daemon_dies(site: Deployment) -> None:
    router = site.start_router()
    spam(site)
    wait_until(lambda: any(w["channel"] == "mail" and w["tries"] for w in json.loads(site.egressguard("notify", "--json").stdout)),
               "a try in vain")
    assert site.status()[1]["daemon"]["round_age_s"] < 5
    router.kill()
    router.wait()
    with Sink(site.world.mailserver) as sink, web_server(site.world.mailserver) as posted:
        site.start_router()
        assert "looks compromised" in sink.wait_for(1)[0].subject
        wait_until(lambda: bool(posted), "the webhook")
        wait_until(lambda: json.loads(site.egressguard("notify", "--json").stdout) == [], "an empty outbox")


def test_a_server_that_hangs_and_a_command_that_hangs_hold_up_nobody(site: Deployment, tmp_path: Path) -> None:
    (tmp_path / "on-alert").write_text("#!/bin/sh\nsleep 1000\n")
    silent = site.world.mailserver.call(socket.create_server, ("0.0.0.0", 25))
    with web_server(site.world.mailserver) as posted:
        site.start_router()
        spam(site)
        wait_until(lambda: bool(posted), "the webhook, beside two that hang")
        site.world.router.run(["nft", "flush", "ruleset"])
        wait_until(lambda: len(posted) == 2, "the exposure")
        assert posted[1]["kind"] == "exposure"
        assert "nft" in posted[1]["facts"]["by"][0]
        ages = []
        for _ in range(5):
            ages.append(site.status()[1]["daemon"]["round_age_s"])
            time.sleep(0.2)
    assert max(ages) < 5
    assert site.status()[1]["mode"] == "enforce"
    silent.close()


def test_the_deliverers_death_is_not_the_daemons_and_it_comes_back(site: Deployment) -> None:
    router = site.start_router()
    wait_until(lambda: bool(deliverer_of(router)), "the deliverer")
    subprocess.run(["kill", "-9", deliverer_of(router)], check=True)
    time.sleep(1)
    assert site.status()[0] == 0
    spam(site)
    with Sink(site.world.mailserver) as sink, web_server(site.world.mailserver):
        assert sink.wait_for(1, timeout_s=60)


BY_COMMAND = "delivered by this command: no running daemon was found, and what its unit forbids was not tried"


def test_a_test_goes_to_every_channel_and_says_which_failed(site: Deployment) -> None:
    """Without a daemon: by the command itself, which says so."""
    done = site.egressguard("notify", "--test")
    assert done.returncode == 4
    assert f"command: {BY_COMMAND}" in done.stdout
    assert "mail: " in done.stderr
    assert "webhook: " in done.stderr
    assert "(tried by the command)" in done.stderr
    with Sink(site.world.mailserver) as sink, web_server(site.world.mailserver, 500):
        done = site.egressguard("notify", "--test")
        assert "a test from router" in sink.wait_for(1)[0].subject
    assert done.stdout.splitlines() == [f"mail: {BY_COMMAND}", f"command: {BY_COMMAND}"]
    assert "the answer was 500" in done.stderr


def deliverer_of(router: subprocess.Popen[Any]) -> str:
    return subprocess.run(["pgrep", "-P", str(router.pid), "-f", "egressguard.deliverer"], text=True, capture_output=True,
                          check=False).stdout.strip()


def test_the_running_daemon_sends_the_test_and_says_which_channel_failed(site: Deployment, tmp_path: Path) -> None:
    router = site.start_router()
    with Sink(site.world.mailserver) as sink, web_server(site.world.mailserver, 500):
        done = site.egressguard("notify", "--test")
        assert "a test from router" in sink.wait_for(1)[0].subject
        assert done.returncode == 4
        assert done.stdout.splitlines() == ["mail: delivered by the daemon", "command: delivered by the daemon"]
        assert "the answer was 500" in done.stderr
        assert "(tried by the daemon)" in done.stderr
        assert (tmp_path / "parent").read_text().strip() == deliverer_of(router), "from the process that delivers alerts"
    answer = json.loads(site.egressguard("notify", "--test", "--json").stdout)
    assert [(one["channel"], one["delivered"], one["by"]) for one in answer] == [
        ("mail", False, "daemon"), ("webhook", False, "daemon"), ("command", True, "daemon")]
    assert json.loads(site.egressguard("notify", "--json").stdout) == [], "a test that failed waits for nothing"


def test_a_test_is_not_kept_waiting_by_an_alert_that_hangs(site: Deployment, tmp_path: Path) -> None:
    hangs = '#!/bin/sh\nread -r line\ncase $line in *\'"kind": "test"\'*) exit 0 ;; esac\nsleep 1000\n'
    (tmp_path / "on-alert").write_text(hangs)
    site.start_router()
    spam(site)
    wait_until(lambda: any(w["channel"] == "command" for w in json.loads(site.egressguard("notify", "--json").stdout)), "an alert")
    assert "command: delivered by the daemon" in site.egressguard("notify", "--test").stdout


def test_a_configuration_that_is_not_in_force_is_not_tested(site: Deployment) -> None:
    router = site.start_router()
    site.amend(f'mail_to = ["{TO}"]', 'mail_to = ["other@example.org"]')
    done = site.egressguard("notify", "--test")
    assert (done.returncode, done.stdout) == (4, "")
    assert "the running daemon has another [notify] in force: reload it first" in done.stderr
    router.send_signal(signal.SIGHUP)
    with Sink(site.world.mailserver) as sink:
        wait_until(lambda: "mail: delivered by the daemon" in site.egressguard("notify", "--test").stdout, "the reload")
        assert sink.wait_for(1)[0].recipients == ("other@example.org",)


def test_without_a_channel_there_is_nothing_to_try(site: Deployment) -> None:
    text = site.router_config.read_text()
    site.router_config.write_text(text.partition("[notify]")[0])
    assert "no channel is configured" in site.egressguard("notify", "--test").stderr
