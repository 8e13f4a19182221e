"""`egressguard-milter check` on real configurations: right as printed, and each way to have no limits is found."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from lab.postfix import Postfix
from lab.sendmail import Sendmail
from tests.relay import mtas
from tests.relay.running import COMMAND

PRINTED = "{ inet:127.0.0.1:8892, default_action=tempfail, connect_timeout=2s, command_timeout=3s, content_timeout=5s }"
SHORT = {"milter_connect_timeout": "2s", "milter_command_timeout": "3s", "milter_content_timeout": "5s"}


def check(*arguments: str | Path, milter: str = "inet:8892@127.0.0.1") -> tuple[int, str]:
    done = subprocess.run([COMMAND, "check", "--milter", milter, *arguments], text=True, capture_output=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def namespace(root: None) -> Iterator[Namespace]:
    with Namespace("relay") as namespace:
        yield namespace


@pytest.fixture(scope="module")
def postfix(namespace: Namespace) -> Iterator[Postfix]:
    relay = mtas.relay("postfix", namespace, "198.51.100.0/24")
    assert isinstance(relay, Postfix)
    relay.stop()
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def sendmail(namespace: Namespace) -> Iterator[Sendmail]:
    relay = mtas.relay("sendmail", namespace, "198.51.100.0/24")
    assert isinstance(relay, Sendmail)
    relay.stop()
    yield relay
    relay.close()


@pytest.fixture
def main_cf(postfix: Postfix) -> Iterator[Path]:
    path = postfix.config / "main.cf"
    before, services = path.read_text(), (postfix.config / "master.cf").read_text()
    yield path
    path.write_text(before)
    (postfix.config / "master.cf").write_text(services)


def test_the_printed_configuration_is_correct_on_both(postfix: Postfix, sendmail: Sendmail) -> None:
    code, text = check("--postfix", postfix.config, "--sendmail", sendmail.config)
    assert (code, text.count("correct")) == (0, 1), text


@pytest.mark.parametrize(("lines", "said"), [
    ("milter_default_action = accept\nsmtpd_milters = inet:127.0.0.1:8892",
     "main.cf: milter_default_action: accept: a milter that is down, killed or confused then means unlimited mail; write tempfail"),
    (f"smtpd_milters = {PRINTED.replace('tempfail', 'accept')}", "smtpd_milters (smtp/inet): default_action: accept"),
    (f"smtpd_milters = {PRINTED.replace('tempfail', 'reject')}", "then refuses mail for good; write tempfail"),
    ("smtpd_milters = inet:8892@127.0.0.1", "libmilter's order, and smtpd dies of it; Postfix writes inet:127.0.0.1:8892"),
    ("smtpd_milters = inet:127.0.0.1:8891", "Postfix asks inet:127.0.0.1:8891; add inet:127.0.0.1:8892"),
    ("smtpd_milters =", "smtpd_milters (smtp/inet): is empty, so nothing is limited"),
    ("smtpd_milters =\nnon_smtpd_milters = inet:127.0.0.1:8892", "non_smtpd_milters never sees mail from the network"),
    ("smtpd_milters = inet:127.0.0.1:8892", "a stalled milter holds every client: milter_connect_timeout is 30s, milter_command_timeout is 30s, milter_content_timeout"),
    (f"receive_override_options = no_milters\nsmtpd_milters = {PRINTED}", "remove no_milters"),
    (f"smtpd_proxy_filter = 127.0.0.1:10025\nsmtpd_milters = {PRINTED}", "never sees the end of a message"),
    (f"smtpd_milter_maps = cidr:{{{{0.0.0.0/0 DISABLE}}}}\nsmtpd_milters = {PRINTED}", "smtpd_milter_maps (smtp/inet): cidr:"),
    (f"smtpd_milters = {PRINTED.replace('default_action=tempfail', '{ default_action = accept }')}", "default_action: accept: a milter"),
    (f"milter_default_action =\nsmtpd_milters = {PRINTED.replace('default_action=tempfail, ', '')}", "nothing: is no action that defers"),
    (f"milter_connect_timeout =\nsmtpd_milters = {PRINTED.replace('connect_timeout=2s, ', '')}", "milter_connect_timeout is empty: no time"),
    (f"smtpd_milters = {PRINTED.replace('connect_timeout=2s', 'connect_timeout=1y')}", "milter_connect_timeout is 1y: no time; write 2s"),
    (f"mail_name = Mailer\nsmtpd_milters = {PRINTED}", "rules by name match nobody"),
    (f"milter_connect_macros = j\nsmtpd_milters = {PRINTED}", "rules by name match nobody"),
    (f"milter_protocol = 4 no_header_reply\nsmtpd_milters = {PRINTED}", "refused_recipients limits nobody; write 6"),
    (f"smtpd_milters = {PRINTED.replace(' }', ', protocol=2 }')}", "(smtp/inet): 2: the milter is not told which recipients"),
])
def test_each_way_to_have_no_limits_in_postfix_is_found(postfix: Postfix, main_cf: Path, lines: str, said: str) -> None:
    names = {line.split(" ")[0] for line in lines.splitlines()} | {"smtpd_milters"}
    kept = [line for line in main_cf.read_text().splitlines() if line.split(" ")[0] not in names]
    main_cf.write_text("\n".join([*kept, lines]) + "\n")
    code, text = check("--postfix", postfix.config)
    assert code == 1
    assert said in text


@pytest.mark.usefixtures("main_cf")
def test_an_override_in_master_cf_counts(postfix: Postfix) -> None:
    services = postfix.config / "master.cf"
    services.write_text(services.read_text() + "2525 inet n - n - - smtpd\n -o smtpd_milters=\n")
    code, text = check("--postfix", postfix.config)
    assert code == 1
    assert text.splitlines() == [f"{postfix.config}/main.cf: smtpd_milters (2525/inet): is empty, so nothing is "
                                 "limited; write smtpd_milters = inet:127.0.0.1:8892"]


@pytest.mark.usefixtures("main_cf")
@pytest.mark.parametrize(("clients", "code"), [("", 0), ("192.0.2.0/24", 1)])
def test_a_door_of_another_protocol_is_found(postfix: Postfix, clients: str, code: int) -> None:
    services = postfix.config / "master.cf"
    services.write_text(f"{services.read_text()}628 inet n - n - - qmqpd\n -o qmqpd_authorized_clients={clients}\n")
    found, text = check("--postfix", postfix.config)
    assert (found, "628/inet: qmqpd takes mail of 192.0.2.0/24" in text) == (code, bool(clients)), text


@pytest.mark.usefixtures("main_cf")
@pytest.mark.parametrize("place", ["127.0.0.1:10025", "[::1]:10025", "localhost:10025"])
def test_a_port_where_only_this_machine_hands_in_mail_needs_no_milter(postfix: Postfix, place: str) -> None:
    services = postfix.config / "master.cf"
    services.write_text(services.read_text() + f"{place} inet n - n - - smtpd\n -o smtpd_milters=\n")
    assert check("--postfix", postfix.config)[0] == 0


@pytest.mark.usefixtures("main_cf")
def test_services_of_this_machine_alone_are_no_door_for_the_network(postfix: Postfix) -> None:
    services = postfix.config / "master.cf"
    services.write_text(re.sub(r"(?m)^smtp( +inet)", r"127.0.0.1:smtp\1", services.read_text()))
    code, text = check("--postfix", postfix.config)
    assert (code, "no smtpd takes mail from the network" in text) == (1, True), text


@pytest.mark.parametrize("written", [
    "{ inet:127.0.0.1:8892 default_action=tempfail connect_timeout=2s command_timeout=3s content_timeout=5s }",
    "{inet:127.0.0.1:8892,{default_action = tempfail},{ connect_timeout = 2 },command_timeout=3s,content_timeout=5s}",
    "inet:127.0.0.1:11332 " + PRINTED, "inet:127.0.0.1:11332, " + PRINTED,
])
def test_postfix_own_ways_to_write_a_milter_are_understood(postfix: Postfix, main_cf: Path, written: str) -> None:
    main_cf.write_text(re.sub(r"(?m)^smtpd_milters *=.*", f"smtpd_milters = {written}", main_cf.read_text()))
    code, text = check("--postfix", postfix.config)
    assert (code, text.count("correct")) == (0, 1), text


@pytest.mark.parametrize(("socket", "milter", "right"), [
    ("inet:localhost:8892", "inet:8892@127.0.0.1", True),
    ("inet:[2001:db8::1]:8892", "inet:8892@2001:db8::1", True),
    ("unix:/run/egressguard/milter", "unix:/run/egressguard/milter", True),
    ("unix:/run/egressguard/milter", "unix:/run/egressguard/other", False),
])
def test_the_same_place_is_recognised_however_it_is_written(
        postfix: Postfix, main_cf: Path, socket: str, milter: str, right: bool) -> None:
    main_cf.write_text(re.sub("inet:127.0.0.1:8892", socket, main_cf.read_text()))
    code, text = check("--postfix", postfix.config, milter=milter)
    assert (code == 0) == right, text


@pytest.mark.parametrize(("old", "new", "said"), [
    (", F=T", "", "Xegressguard: F: is missing: a milter that is down, killed or confused then means unlimited mail; write F=T"),
    ("F=T", "F=R", "Xegressguard: F: R: a milter that is down then refuses mail for good"),
    (", T=C:2s;S:3s;R:3s;E:5s", "", "Xegressguard: T: a stalled milter holds every client: C is 5m, E is 5m"),
    ("inet:8892@127.0.0.1", "inet:127.0.0.1:8892", "is Postfix's order; sendmail writes S=inet:8892@127.0.0.1"),
    ("inet:8892@127.0.0.1", "inet:8891@127.0.0.1", "sendmail asks inet:8891@127.0.0.1; write INPUT_MAIL_FILTER"),
    ("O InputMailFilters=egressguard", "O InputMailFilters=other", "write INPUT_MAIL_FILTER in place of MAIL_FILTER"),
    ("Xegressguard", "#egressguard", "no filter is defined, so nothing is limited"),
    ("Name=MTA-v4,", "Name=MTA-v4, InputMailFilters=other,", "MTA-v4 has InputMailFilters=other"),
    ("Name=MTA-v4,", "name=MTA-v4, inputmailfilters=other,", "MTA-v4 has InputMailFilters=other"),
    ("O InputMailFilters=egressguard", "O inputmailfilters=\n\tother", "write INPUT_MAIL_FILTER in place of MAIL_FILTER"),
    ("F=T", "F=t", "Xegressguard: F: t is no flag that defers: a milter that is down"),
    ("F=T", "F=X", "Xegressguard: F: X is no flag that defers"),
    ("T=C:2s;", "T=C:1m30s;", "a stalled milter holds every client: C is 1m30s"),
    ("T=C:2s;", "T=C:2x;", "C is 2x: no time"),
    ("T=C:2s;", "T=C:;", "C is empty: no time"),
])
def test_each_way_to_have_no_limits_in_sendmail_is_found(
        sendmail: Sendmail, tmp_path: Path, old: str, new: str, said: str) -> None:
    text = sendmail.config.read_text()
    assert old in text
    (tmp_path / "sendmail.cf").write_text(text.replace(old, new))
    code, text = check("--sendmail", tmp_path)
    assert code == 1
    assert said in text


@pytest.mark.parametrize("written", ["unix:/run/egressguard/milter", "local:/run/egressguard/milter", "/run/egressguard/milter"])
def test_a_path_of_sendmail_is_recognised_however_it_is_written(sendmail: Sendmail, tmp_path: Path, written: str) -> None:
    text = sendmail.config.read_text()
    (tmp_path / "sendmail.cf").write_text(text.replace("inet:8892@127.0.0.1", written))
    assert check("--sendmail", tmp_path, milter="unix:/run/egressguard/milter")[0] == 0


@pytest.mark.parametrize("arguments", [
    (), ("--postfix", "/nowhere"), ("--sendmail", "/nowhere"), ("--postfix", "/etc", "--milter", "inet:8892"),
])
def test_what_cannot_be_checked_is_one_message(arguments: tuple[str, ...]) -> None:
    code, text = check(*arguments)
    assert code == 2
    assert text.startswith("egressguard-milter: ")
