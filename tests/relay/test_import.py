"""A site that used ze-filter or sendmail's access keeps its limits, and learns what was left behind."""

import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard_milter.account import Kind
from egressguard_milter.importing import import_text
from egressguard_milter.mistakes import read_policy
from egressguard_milter.terms import Allowance, Directory
from tests.relay.running import COMMAND

ZE_POLICY = """\
# limits of the relay
ConnRate:default          15
connrate:DEFAULT          99
ConnOpen:DEFAULT          10
MsgRate:DEFAULT           20
MsgRate:127.0.0.1         0
MsgRate:LOCAL             300
MsgRate:192.0.2           50
MsgRate:2001:db8:0:11     60
MsgRate:www.example.org   70
MaxRcpt:192.0.2.7         5
RcptRate:LOCAL            1000
MaxMsgs:DEFAULT           10
NetClass:198.51.100       local
NetClass:192.0.2          LOCAL
MsgRateFrom:big@example.org   500
MaxRcptFrom:DEFAULT       50
RcptRateAuth:newsletter   5000
BadMX:bad.example         ERROR
GreyCheckTo:postmaster@   NO
Bogus:1.2.3.4             5
MsgRate:999.1             5
MsgRate:DEFAULT           1
MsgRate:host.example      many
MsgRate:lonely
CHECK_MSG_RATE            YES
CHECK_CONN_RATE           NO
MAX_BADRCPTS              12
MAX_MSG_RATE              7
LOG_LEVEL                 10
"""


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    path = tmp_path / "policy.toml"
    path.write_text(import_text(ZE_POLICY, "ze-filter").toml("x"))
    return Directory(read_policy(path))


def counts(allowance: Allowance) -> dict[str, int]:
    return {cap.kind.name.lower(): cap.most for cap in allowance.claim.caps}


@pytest.mark.parametrize(("address", "name", "expected"), [
    ("203.0.113.1", "", {"messages": 20, "recipients": 200, "refused": 12}),
    ("127.0.0.1", "", {"refused": 12}),
    ("192.0.2.9", "", {"messages": 50, "recipients": 1000, "refused": 12}),
    ("198.51.100.9", "", {"messages": 300, "recipients": 1000, "refused": 12}),
    ("2001:db8:0:11::1", "", {"messages": 60, "recipients": 600, "refused": 12}),
    ("203.0.113.1", "a.www.example.org", {"messages": 70, "recipients": 700, "refused": 12})])
def test_ze_filters_policy_keeps_its_meaning(
        directory: Directory, address: str, name: str, expected: dict[str, int]) -> None:
    assert counts(directory.client(ip_address(address), name)) == expected


def test_ze_filters_other_limits_are_carried_over(directory: Directory) -> None:
    seven = directory.client(ip_address("192.0.2.7"), "")
    assert seven.levels == {"recipients_per_message": 5, "messages_per_connection": 10, "open_connections": 10}
    sender, login = directory.sender("big@example.org"), directory.login("newsletter")
    assert sender
    assert (sender[0].caps[0].kind, sender[0].caps[0].most, sender[1]) == (Kind.MESSAGES, 500, 50)
    assert login
    assert (login[0].caps[0].kind, login[0].caps[0].most) == (Kind.RECIPIENTS, 5000)


def test_every_line_that_was_not_carried_over_is_named() -> None:
    remarks = {r.line: r.text for r in import_text(ZE_POLICY, "ze-filter").remarks}
    assert remarks == {
        3: "connrate:DEFAULT: stands in line 2 already, and the first one wins",
        19: "BadMX:bad.example: is not a limit",
        20: "GreyCheckTo:postmaster@: is not a limit",
        21: "Bogus:1.2.3.4: is no key of ze-filter's policy",
        22: "MsgRate:999.1: is no network: an octet is above 255",
        23: "MsgRate:DEFAULT: stands in line 5 already, and the first one wins",
        24: "MsgRate:host.example: 'many' is no number",
        25: "MsgRate:lonely: has no value",
        30: "LOG_LEVEL: is a setting without a meaning here",
    }


ACCESS = """\
Connect:192.0.2.1      RELAY
Connect:198.51.100     RELAY
Connect:IPv6:2001:db8:0:11::1   RELAY
Connect:example.org    RELAY
Connect:203.0.113.1    REJECT
From:spam@x.example    REJECT
ClientRate:192.0.2.1   20
ClientRate:            5
ClientConn:            3
ClientConn:192.0.2.1   0
192.0.2.99             RELAY
"""


def test_sendmails_access_names_the_clients_and_its_rates_are_kept(tmp_path: Path) -> None:
    draft, path = import_text(ACCESS, "access"), tmp_path / "policy.toml"
    path.write_text(draft.toml("x"))
    directory = Directory(read_policy(path))
    relays = ("192.0.2.1", "198.51.100.7", "2001:db8:0:11::1")
    assert {directory.client(ip_address(a), "").claim.pool.name for a in relays} == {"KNOWN"}
    assert directory.client(ip_address("203.0.113.1"), "a.example.org").claim.pool.name == "KNOWN"
    stranger, one = (directory.client(ip_address(a), "") for a in ("203.0.113.1", "192.0.2.1"))
    assert stranger.claim.pool.name == "STRANGER"
    rates = [[(c.most, c.window_s) for c in a.claim.caps if c.kind is Kind.CONNECTIONS] for a in (stranger, one)]
    assert rates == [[(5, 60.0)], [(20, 60.0)]]
    assert (stranger.levels["open_connections"], one.levels["open_connections"]) == (3, 200)
    assert [r.line for r in draft.remarks] == [5, 6, 11]


def test_the_command_writes_a_policy_and_names_what_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "ze-policy.txt", tmp_path / "new.toml"
    source.write_bytes(ZE_POLICY.encode() + b"MsgRate:\xff\xfe 3\n")
    done = subprocess.run([COMMAND, "import", source, "--format", "ze-filter", "--output", target], text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{source}:19: BadMX:bad.example: is not a limit" in done.stderr
    assert "# Not carried over, line 19: BadMX:bad.example: is not a limit" in target.read_text()
    assert subprocess.run([COMMAND, "check-config", "--config", target], check=False).returncode == 0
    done = subprocess.run([COMMAND, "import", tmp_path / "absent", "--format", "access"], text=True,
                          capture_output=True, check=False, timeout=60)
    assert (done.returncode, "cannot import" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
