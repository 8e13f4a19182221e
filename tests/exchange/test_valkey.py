"""What only a server can do wrong, on the real one; and how it is set up."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from egressguard.core.documents import MAX_LENGTH, Bulletin
from egressguard.core.errors import ExchangeError, ExchangeLateError
from egressguard.core.exchange_url import ServerPlace, parse
from egressguard.core.verdict import State
from egressguard.exchange import Exchange, open_exchange
from egressguard.exchange.hedged import SILENT_S, Hedged
from egressguard.exchange.line import CALL_S, SYN_EVERY_S
from egressguard.exchange.setup import acl_line
from egressguard.exchange.valkey import ValkeyStore, packed, unpacked
from egressguard_milter.account import Kind, Pool
from egressguard_milter.budgets import Budgets
from egressguard_milter.ledger import Cap, Claim, Refusal
from egressguard_milter.shared_ledger import SharedLedger
from lab.dripping import Dripping
from lab.interference import Interference
from lab.namespaces import Namespace
from lab.valkey import Server, certificates, free_port
from tests.exchanges import bulletin, key_file, report

COMMAND = Path(sys.executable).parent / "egressguard"
pytestmark = pytest.mark.usefixtures("patient")
SLACK_S = 1.0  # a shared machine's hesitation


@pytest.fixture
def key(tmp_path: Path) -> str:
    return key_file(tmp_path)


def test_a_poll_without_news_reads_no_document(server: Server, key: str) -> None:
    router, relay = open_exchange(server.url, key), open_exchange(server.url, key)
    router.publish(bulletin("r1", 1))
    assert relay.changed()
    relay.bulletins()
    before = server.command("INFO", "commandstats")["cmdstat_mget"]["calls"]
    for _ in range(5):
        relay.changed()
        relay.bulletins()
    assert server.command("INFO", "commandstats")["cmdstat_mget"]["calls"] == before
    router.close()
    relay.close()


def test_two_versions_are_never_confused_after_a_flush(server: Server, key: str) -> None:
    """A counter would begin anew, and its first value could be the one that is remembered."""
    router, relay = open_exchange(server.url, key), open_exchange(server.url, key)
    router.publish(bulletin("r1", 1))
    assert relay.bulletins() == [bulletin("r1", 1)]
    server.command("FLUSHALL")
    router.publish(bulletin("r1", 2))
    assert relay.bulletins() == [bulletin("r1", 2)]
    router.close()
    relay.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server set up as `exchange-setup` says, with TLS and one user for each role."""
    folder, port = tmp_path_factory.mktemp("site") / "setup", free_port()
    subprocess.run([COMMAND, "exchange-setup", "--port", str(port), "--folder", folder, "--into", folder], check=True,
                   capture_output=True)
    certificates(folder, "127.0.0.1")
    with Server(port=port, config=(folder / "egressguard.conf").read_text()) as server:
        yield server, folder


def opened(site: tuple[Server, Path], role: str, *, ca: str = "ca.crt", more: str = "") -> Exchange:
    server, folder = site
    return open_exchange(f"valkeys://{role}@127.0.0.1:{server.port}?password={folder}/{role}.password"
                         f"&ca={folder}/{ca}{more}", f"{folder}/exchange.key")


def test_every_role_does_its_work_over_tls(site: tuple[Server, Path]) -> None:
    router, relay, operator = (opened(site, role) for role in ("router", "relay", "operator"))
    router.publish(bulletin("r1", 1))
    relay.report(report("relay", 1))
    assert relay.changed()
    for reader in (router, relay, operator):
        assert reader.bulletins() == [bulletin("r1", 1)]
        assert reader.reports() == [report("relay", 1)]
    router.forget("relay")
    assert operator.reports() == []
    for exchange in (router, relay, operator):
        exchange.close()


def test_relays_share_a_budget_with_the_user_that_is_set_up_for_them(site: tuple[Server, Path]) -> None:
    """Whoever cannot use the server for it counts by half a limit."""
    server, folder = site
    place = parse(f"valkeys://relay@127.0.0.1:{server.port}?password={folder}/relay.password&ca={folder}/ca.crt")
    assert isinstance(place, ServerPlace)
    ledger = SharedLedger(600.0, 1000, None, Budgets(place, "relay", 1), relays=1)
    claim = Claim("192.0.2.77", (Cap(Kind.MESSAGES, 40, 600.0),), Pool.KNOWN)
    taken = []
    for _ in range(41):
        ledger._budgets._retry_at_s = 0.0  # a slow machine's late answer is no refusal by the server
        ledger.tend(time.monotonic())
        hold = ledger.reserve([claim], time.monotonic())
        if not isinstance(hold, Refusal):
            ledger.settle(hold, 1, time.monotonic())
            taken.append(hold)
    ledger._budgets.close()
    assert len(taken) == 40


def test_without_info_a_relay_shares_no_budget_and_says_what_its_user_lacks(server: Server, tmp_path: Path) -> None:
    """By the line of the ACL file as it is printed, and as it was before."""
    key_file(tmp_path, "secret")
    place = ServerPlace((("127.0.0.1", server.port),), False, "relay", str(tmp_path / "exchange.key"))
    user = acl_line("relay", "secret").split()[1:]
    ledger = SharedLedger(600.0, 1000, None, Budgets(place, "relay", 1), relays=1)
    claim = Claim("192.0.2.77", (Cap(Kind.MESSAGES, 40, 600.0),), Pool.KNOWN)
    for words, shared in (([word for word in user if word != "+info"], False), (user, True)):
        server.command("ACL", "SETUSER", *words)
        ledger._budgets._retry_at_s = 0.0
        ledger.tend(time.monotonic())
        assert ("put +info into its line of the ACL file" in ledger.fault) is not shared
        assert isinstance(ledger.reserve([claim], time.monotonic()), Refusal) is not shared
    ledger._budgets.close()
    server.command("ACL", "DELUSER", "relay")


@pytest.mark.parametrize(("role", "act"), [
    ("relay", lambda e: e.publish(bulletin("r1", 9, State.COMPROMISED))), ("relay", lambda e: e._store.forget("bulletin", "r1")),
    ("operator", lambda e: e.publish(bulletin("r1", 9))), ("operator", lambda e: e.report(report("relay", 9))),
    ("relay", lambda e: e._store._line.exchange(("FLUSHALL",))), ("router", lambda e: e._store._line.exchange(("FLUSHALL",))),
    ("router", lambda e: e._store._line.exchange(("CONFIG", "GET", "*"))), ("relay", lambda e: e._store._line.exchange(("KEYS", "*"))),
    ("router", lambda e: e._store._line.exchange(("SET", "other:key", "x")))])
def test_no_role_can_do_more_than_its_work(site: tuple[Server, Path], role: str, act: object) -> None:
    router = opened(site, "router")
    router.publish(bulletin("r1", 1))
    exchange = opened(site, role)
    with pytest.raises(Exception, match=r"(?i)no permissions|NOPERM|has no permissions") as refused:
        act(exchange)  # type: ignore[operator]
    assert refused.type.__name__ in ("ExchangeError", "NoPermissionError")
    assert router.bulletins() == [bulletin("r1", 1)]
    router.close()
    exchange.close()


def test_a_wrong_password_and_no_user_at_all_are_refused(site: tuple[Server, Path]) -> None:
    server, folder = site
    (folder / "wrong").write_text("guess\n")
    (folder / "wrong").chmod(0o600)
    url = f"valkeys://relay@127.0.0.1:{server.port}?ca={folder}/ca.crt&password={folder}/wrong"
    with pytest.raises(ExchangeError, match="refuses user 'relay'"):
        open_exchange(url, f"{folder}/exchange.key")
    with pytest.raises(ExchangeError, match=r"(?i)authentication required"):
        open_exchange(f"valkeys://127.0.0.1:{server.port}?ca={folder}/ca.crt", f"{folder}/exchange.key")


def test_a_certificate_of_another_authority_or_for_another_name_is_refused(site: tuple[Server, Path], tmp_path: Path) -> None:
    certificates(tmp_path, "127.0.0.1")
    (site[1] / "other.crt").write_bytes((tmp_path / "ca.crt").read_bytes())
    with pytest.raises(ExchangeError, match=r"(?i)certificate"):
        opened(site, "router", ca="other.crt")
    with pytest.raises(ExchangeError, match=r"(?i)certificate|hostname"):
        opened(site, "router", more="&name=other.example")


def test_nothing_is_said_in_clear(site: tuple[Server, Path]) -> None:
    with pytest.raises(ExchangeError):
        open_exchange(f"valkey://127.0.0.1:{site[0].port}", f"{site[1]}/exchange.key")


def test_secrets_are_readable_by_their_owner_and_group_only(site: tuple[Server, Path], tmp_path: Path) -> None:
    assert {path.name: path.stat().st_mode & 0o007 for path in site[1].iterdir()
            if path.suffix in (".password", ".acl") or path.name == "exchange.key"} == {
        "egressguard.acl": 0, "router.password": 0, "relay.password": 0, "operator.password": 0, "exchange.key": 0}
    careless = Path(key_file(tmp_path))
    careless.chmod(0o644)
    with pytest.raises(ExchangeError, match="everybody may read it"):
        open_exchange(f"sqlite:{tmp_path}/exchange.db", str(careless))


def test_a_key_is_changed_without_a_restart(server: Server, tmp_path: Path) -> None:
    old, new = f"old {'ab' * 32}", f"new {'cd' * 32}"
    for name in ("router", "relay"):
        (tmp_path / name).mkdir()
    router = open_exchange(server.url, key_file(tmp_path / "router", old))
    relay = open_exchange(server.url, key_file(tmp_path / "relay", old))
    sequence = 0

    def heard() -> bool:
        nonlocal sequence
        sequence += 1
        router.publish(bulletin("r1", sequence))
        relay.changed()
        return relay.bulletins() == [bulletin("r1", sequence)]

    assert heard()
    for step in ((old, new), (new, old), (new,)):
        for name in ("router", "relay"):
            key_file(tmp_path / name, *step)
            assert heard()
    key_file(tmp_path / "router", f"stolen {'ee' * 32}")
    assert not heard()
    assert relay.counts["forged"] == 1
    router.close()
    relay.close()


def costs_at_most(place: ServerPlace, bound_s: float) -> bool:
    """Once in five times: a machine that others use may hesitate for longer than any deadline, but not always."""
    for _ in range(5):
        began_s = time.monotonic()
        with pytest.raises(ExchangeError):
            ValkeyStore(place)
        if time.monotonic() - began_s < bound_s:
            return True
    return False


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_accepts_and_says_nothing_or_drips_costs_one_deadline(
        tls: bool, site: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.exchange.line.CALL_S", CALL_S)

    ca = f"{site[1]}/ca.crt" if tls else ""
    for drip in (b"", b"+"):
        with Dripping(drip) as slow:
            place = ServerPlace((("127.0.0.1", slow.port),), tls, ca=ca)
            assert costs_at_most(place, 2 * CALL_S + SLACK_S), "connecting and the first call"
            assert drip == b"" or slow.sent >= 2, "several pieces came within the deadline"


@pytest.mark.parametrize("kept", ["z ", "z !", "z AAAA", packed("x" * MAX_LENGTH + "xx"), packed("x" * 2000)[:-8]])
def test_what_cannot_be_unpacked_is_no_document_and_takes_no_memory(kept: str) -> None:
    assert len(unpacked(kept)) < 100_000


def test_a_long_document_takes_a_fraction_of_its_length() -> None:
    text = ",".join(f'"2001:db8:0:{n:x}::/64":["normal",40,{n},0]' for n in range(1000))
    assert len(packed(text)) < len(text) / 4
    assert unpacked(packed(text)) == text


def test_a_late_answer_is_waited_for_and_never_taken_for_another_ones(
        server: Server, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a lost packet: the connection goes on, and what was to be read is news still."""
    monkeypatch.setattr("egressguard.exchange.line.CALL_S", CALL_S)
    with Interference(server.port) as proxy:
        router, relay = open_exchange(server.url, key), open_exchange(f"valkey://127.0.0.1:{proxy.port}", key)
        relay.changed()
        for sequence in range(1, 4):
            router.publish(bulletin("r1", sequence))
            proxy.delay_s = 0.5
            with pytest.raises(ExchangeLateError):
                relay.changed()
            proxy.delay_s = 0.0
            deadline_s = time.monotonic() + 10
            while time.monotonic() < deadline_s:
                try:
                    if relay.changed() and relay.bulletins() == [bulletin("r1", sequence)]:
                        break
                except ExchangeLateError:
                    continue
            assert relay.bulletins() == [bulletin("r1", sequence)]
        proxy.swallows = True
        began_s = time.monotonic()
        with pytest.raises(ExchangeError, match="Timeout"):
            while time.monotonic() - began_s < 2 * SILENT_S + 5:
                with suppress(ExchangeLateError):
                    relay.changed()
        assert time.monotonic() - began_s < SILENT_S + 5, "a connection that brings nothing is given up"
        router.close()
        relay.close()


def test_a_server_whose_every_answer_is_late_is_heard_all_the_same(
        server: Server, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked anew each time would never have an answer to what it asks."""
    monkeypatch.setattr("egressguard.exchange.line.CALL_S", CALL_S)
    with Interference(server.port) as proxy:
        router, relay = open_exchange(server.url, key), open_exchange(f"valkey://127.0.0.1:{proxy.port}", key)
        router.publish(bulletin("r1", 1))
        proxy.delay_s = 1.1 * CALL_S / 2  # each way
        found: list[Bulletin] = []
        deadline_s = time.monotonic() + 20
        while not found and time.monotonic() < deadline_s:
            with suppress(ExchangeLateError):
                found = relay.bulletins() if relay.changed() else []
        assert found == [bulletin("r1", 1)]
        router.close()
        relay.close()


LOSES_EVERY_OTHER_SYN = """table inet lossy {
    chain losing {
        type filter hook output priority 0
        tcp dport 6379 tcp flags & (syn | ack) == syn numgen inc mod 2 == 0 drop
    }
}"""


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("every_s", [SYN_EVERY_S, 10.0])
def test_a_lost_syn_does_not_cost_the_call_its_deadline(every_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends it again after a second, so without a second connection (every 10 s) the call fails."""
    monkeypatch.setattr("egressguard.exchange.line.CALL_S", 0.9)
    monkeypatch.setattr("egressguard.exchange.line.SYN_EVERY_S", every_s)
    with Namespace("lossy") as here:
        here.ip("link set lo up")
        with Server(port=6379, namespace=here) as server:
            here.run(["nft", "-f", "-"], stdin=LOSES_EVERY_OTHER_SYN)
            place = ServerPlace(((server.address, server.port),), False)
            if every_s == SYN_EVERY_S:
                here.call(ValkeyStore, place).close()
            else:
                with pytest.raises(ExchangeError, match="Timeout"):
                    here.call(ValkeyStore, place)


def test_a_server_that_refuses_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExchangeError, match="refused"):
        ValkeyStore(ServerPlace((("127.0.0.1", free_port()),), False))


LOSES_EVERY_OTHER_QUESTION = """table inet lossy {
    chain losing {
        type filter hook output priority 0
        tcp dport 6379 tcp flags & psh == psh numgen inc mod 2 == 0 drop
    }
}"""


def time_of_questions_s(again_s: float) -> float:
    """How long forty polls take when every other packet to the server is lost, and asked again after `again_s`."""
    with Namespace("lossy") as here, pytest.MonkeyPatch.context() as patch:
        patch.setattr("egressguard.exchange.hedged.ASK_AGAIN_S", again_s)
        here.ip("link set lo up")
        with Server(port=6379, namespace=here) as server:
            store = here.call(ValkeyStore, ServerPlace(((server.address, server.port),), False))
            here.run(["nft", "-f", "-"], stdin=LOSES_EVERY_OTHER_QUESTION)
            began_s = time.monotonic()
            for _ in range(40):
                here.call(store.changed)
            took_s = time.monotonic() - began_s
            store.close()
            return took_s


@pytest.mark.usefixtures("root", "patient")
def test_a_lost_question_is_asked_again_before_the_kernel_would_send_it_again() -> None:
    assert time_of_questions_s(0.04) < 0.7 * time_of_questions_s(10.0)


def test_several_servers_that_say_nothing_cost_one_deadline_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.exchange.line.CALL_S", 1.0)
    with ExitStack() as ending:
        silent = [ending.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        place = ServerPlace(tuple(("127.0.0.1", one.getsockname()[1]) for one in silent), False)
        assert costs_at_most(place, 2.0), "one second, not three"


def test_a_server_behind_one_that_says_nothing_is_found(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ValkeyStore(ServerPlace((("127.0.0.1", silent.getsockname()[1]), ("127.0.0.1", server.port)), False)).close()


LOSES_EVERY_QUESTION = LOSES_EVERY_OTHER_QUESTION.replace("numgen inc mod 2 == 0 ", "")


def document_after_an_outage(server: Server, here: Namespace) -> str | None:
    """What stands there in the end, when one was lost and a second one was left."""
    store = here.call(ValkeyStore, ServerPlace(((server.address, server.port),), False))
    here.run(["nft", "-f", "-"], stdin=LOSES_EVERY_QUESTION)
    with pytest.raises(ExchangeError):
        here.call(store.put, "bulletin", "r1", "the old one")
    here.run(["nft", "delete table inet lossy"])
    deadline_s, left = time.monotonic() + 20, False
    while not left and time.monotonic() < deadline_s:
        with suppress(ExchangeLateError):
            here.call(store.put, "bulletin", "r1", "the new one")
            left = True
    time.sleep(1.5)  # by now the kernel has sent again whatever it still has
    found = here.call(server.command, "GET", "egressguard:bulletin:r1")
    store.close()
    return found.decode() if found else None


@pytest.mark.usefixtures("root")
def test_what_an_outage_held_back_does_not_replace_what_was_left_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.exchange.line.CALL_S", 0.3)
    with Namespace("lossy") as here:
        here.ip("link set lo up")
        with Server(port=6379, namespace=here) as server:
            assert document_after_an_outage(server, here) == "the new one"
            monkeypatch.setattr(Hedged, "_give_up", lambda self, one: None)
            assert document_after_an_outage(server, here) == "the old one", "the mutant"
