"""OpenDKIM's miltertest, another implementation of the MTA's side, meets the same limits.

It sends what every milter that counts must take: connection, MAIL, end of message, abort. Stages that a
milter negotiated away end it without a word, so the script names none of them.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from tests.relay.running import Milter

SCRIPT = """
local conn = mt.connect("inet:8892@127.0.0.1", 40, 0.25)
assert(conn, "no connection")
assert(mt.conninfo(conn, "client.example", ip) == nil, "connection details")
for step in string.gmatch(steps, "%a+") do
  assert(mt.mailfrom(conn, "sender@inside.example") == nil, "MAIL")
  local reply = mt.getreply(conn)
  if reply ~= SMFIR_CONTINUE then
    mt.echo("refused " .. string.char(reply))
  elseif step == "message" then
    assert(mt.eom(conn) == nil, "end of message")
    mt.echo("message " .. string.char(mt.getreply(conn)))
  elseif step == "abort" then
    assert(mt.abort(conn) == nil, "abort")
    mt.echo("aborted")
  else
    mt.disconnect(conn, false)
    mt.echo("vanished")
    return
  end
end
mt.disconnect(conn)
"""


@pytest.fixture
def namespace(root: None, tmp_path: Path) -> Iterator[Namespace]:
    with Namespace("relay") as namespace:
        milter = Milter(namespace, tmp_path / "milter", (
            f'socket = "inet:8892@127.0.0.1"\nexchange = "sqlite:{tmp_path}/exchange.db"\n[limits]\nmessages = 2\n'))
        milter.wait_for_log("event=started")
        yield namespace


def miltertest(namespace: Namespace, folder: Path, ip: str, steps: str) -> list[str]:
    script = folder / "script.lua"
    script.write_text(SCRIPT)
    try:
        done = namespace.run(["miltertest", "-D", f"ip={ip}", "-D", f"steps={steps}", "-s", script])
    except FileNotFoundError:
        pytest.fail("no miltertest: run script/bootstrap dev")
    except subprocess.TimeoutExpired:
        pytest.fail("the milter did not answer")
    return done.stdout.splitlines()


@pytest.mark.parametrize("ip", ["192.0.2.7", "2001:db8:0:7::1"])
def test_the_limit_is_met_at_mail(namespace: Namespace, tmp_path: Path, ip: str) -> None:
    # y: a reply with code and text, here 451.
    replies = miltertest(namespace, tmp_path, ip, "message message message message")
    assert replies == ["message c", "message c", "refused y", "refused y"]
    assert miltertest(namespace, tmp_path, ip, "message") == ["refused y"]


def test_what_is_aborted_or_breaks_off_costs_nothing(namespace: Namespace, tmp_path: Path) -> None:
    for _ in range(3):
        assert miltertest(namespace, tmp_path, "192.0.2.7", "abort abort vanish") == ["aborted", "aborted", "vanished"]
    assert miltertest(namespace, tmp_path, "192.0.2.7", "message message message") == [
        "message c", "message c", "refused y"]
