"""The reference: libmilter, by pymilter, with our sessions behind it answers every MTA as our own protocol does.

Both run as processes with the same policy and counts of their own, and are told the same packets, each only when
the one before has been answered, as an MTA does. Where they differ stands below with what each of them does.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard_milter import wire
from lab.namespaces import wait_until
from tests.relay.mta import ABORT, ANOTHER, END, OFFER, QUIT, client, macros, mail, rcpt

POLICY = """
socket = "unix:{folder}/socket"
exchange = "sqlite:{folder}/exchange.db"
state = "{folder}/state"
metrics = ""
[limits]
messages = 3
recipients = 7
recipients_per_message = 3
refused_recipients = 4
messages_per_connection = 5
open_connections = 2
[[client]]
match = ["trusted.example"]
messages = 4
[login_limits]
messages = 2
"""
OURS = [str(Path(sys.executable).parent / "egressguard-milter"), "run", "--config"]
REFERENCE = [sys.executable, "-m", "bench.relay.on_libmilter"]
UNANSWERED = b"DAQK"
HELLO, DATA, HEADER = wire.packet(b"H", b"client.example\0"), wire.packet(b"T"), wire.packet(b"L", b"Subject\0x\0")
CONTENT = [DATA, HEADER, HEADER, wire.packet(b"N"), wire.packet(b"B", b"text"), wire.packet(b"B", b"more")]
BODY, UNKNOWN = wire.packet(b"B", b"text"), wire.packet(b"U", b"NOOP\0")
PATIENCE_S = 5.0  # after which an answer that is not there will not come
PACKETS = count(1)


@dataclass
class Both:
    """The sockets of our server and of the reference."""

    ours: str
    reference: str

    def hear(self, packets: list[bytes]) -> list[str]:
        """What both answered to the same packets; fails when they differ."""
        ours, reference = talk(self.ours, packets), talk(self.reference, packets)
        assert ours == reference, packets
        return ours


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    sockets, processes = [], []
    try:
        for name, command in (("ours", OURS), ("reference", REFERENCE)):
            folder = tmp_path_factory.mktemp(name)
            (folder / "policy.toml").write_text(POLICY.format(folder=folder))
            with (folder / "log").open("w") as log:
                process = subprocess.Popen([*command, str(folder / "policy.toml")], stdout=log, stderr=log)
            processes.append(process)
            wait_until(lambda at=folder, p=process: (at / "socket").is_socket() or p.poll() is not None, name)  # type: ignore[misc]
            assert process.poll() is None, (folder / "log").read_text() + "\nis python3-milter there? script/bootstrap dev"
            sockets.append(str(folder / "socket"))
        yield Both(*sockets)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # libmilter's stop is known to hang
                process.kill()
                process.wait()


class Line:
    """One connection of an MTA."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(path)
        self.heard: list[str] = []

    def say(self, said: bytes) -> str:
        """The answer, `closed`, or nothing to what has none."""
        try:
            self._socket.sendall(said)
            if said[4:5] and said[4:5] in UNANSWERED:
                return ""
            length = self._read(4)
            answer = self._read(wire.LENGTH.unpack(length)[0])
        except (EOFError, ConnectionError):
            answer = b"closed"
        except TimeoutError:
            answer = b"silent"
        self.heard.append(normal(answer))
        return self.heard[-1]

    def wait_at_most(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (piece := self._socket.recv(size - len(data))):
                raise EOFError
            data += piece
        return data


def normal(answer: bytes) -> str:
    """Without the seconds until the next attempt, which differ by when it was asked."""
    return answer.decode("latin-1").partition("; try again")[0]


def talk(path: str, packets: list[bytes], patience_s: float = PATIENCE_S) -> list[str]:
    line = Line(path)
    line.wait_at_most(patience_s)
    for packet in packets:
        if line.say(packet) == "closed":
            break
    line.close()
    return line.heard


def address() -> str:
    """One that no other case has counted against."""
    return f"2001:db8:{next(PACKETS):x}::1"


def offer(version: int, actions: int, steps: int) -> bytes:
    return wire.packet(b"O", wire.OFFER.pack(version, actions, steps))


def message(recipients: int = 1) -> list[bytes]:
    return [mail(), *([rcpt()] * recipients), END]


@pytest.mark.parametrize(("version", "actions", "steps"), [
    (2, 0x1F, 0x7F), (3, 0x3F, 0x3FF), (4, 0x3F, 0x3FF), (6, 0x1FF, 0x1FFFFF), (6, 0x3F, 0x1FFFFF), (6, 0, 0x7F),
    (6, 0x1FF, 0x400), (99, 0xFFFFFFFF, 0xFFFFFFF), (1, 0x1F, 0x7F), (0, 0, 0)])
def test_every_version_and_offer_is_answered_alike(both: Both, version: int, actions: int, steps: int) -> None:
    at = address()
    heard = both.hear([offer(version, actions, steps), client(at), HELLO, mail(), rcpt(), DATA, HEADER,
                       wire.packet(b"N"), BODY, BODY, END, UNKNOWN, QUIT])
    assert heard[0][0] == ("O" if version >= 2 else "c")
    assert heard[1:] == (["c"] * 11 if version >= 2 else [])


@pytest.mark.parametrize(("said", "last"), [
    (message() * 3 + [mail()], "y451 4.3.2 {} is over its limit of 3 messages in 600 seconds"),
    (message(4), "c"), ([*message(4)[:-1]], "y451 4.3.2 {} is over its limit of 3 recipients per message"),
    (message(3) * 2 + [mail(), rcpt(), rcpt()], "y451 4.3.2 {} is over its limit of 7 recipients in 600 seconds"),
    ([mail(), ABORT, ABORT, *message(), mail(), rcpt(), ABORT] * 2 + message(), "c"),
    ([mail(), mail(), rcpt(), mail(), rcpt(), END], "c"),
    ([macros(b"M", _auth_authen_="somebody"), *message()] * 2 + [macros(b"M", _auth_authen_="somebody"), mail()],
     "y451 4.3.2 login somebody is over its limit of 2 messages in 600 seconds"),
    ([mail(), *[macros(b"R", _rcpt_mailer_="error"), rcpt()] * 4, macros(b"R", _rcpt_mailer_="smtp"), rcpt()],
     "y421 4.5.1 {} is over its limit of 4 refused recipients in 600 seconds"),
    ([*message(), HELLO, *message(), UNKNOWN, mail()], "c"),
    ([wire.packet(b"M", b"<\xff\xfe@inside.example>\0SIZE=\xff\0"), rcpt(), END], "c"),
    ([macros(b"M", i="4F1A2B3C", _auth_authen_=""), mail("<>", "SIZE=99999999999999999999"), rcpt("<>"), END], "c"),
    ([wire.packet(b"D", b"Mx\0y\0z"), *message(), wire.packet(b"D", b"Zx\0y\0"), *message()], "c"),
    ([mail(), rcpt(), wire.packet(b"B", b"x" * 65_535), END], "c"),
    ([mail(), rcpt(), wire.packet(b"B", b"x" * 65_536)], "closed"),
    ([mail(), wire.packet(b"?")], "closed"), ([mail(), b"\0" * 5], "closed"), ([b"\xff\xff\xff\xffM"], "closed"),
    ([b"HTTP/1.1 200 OK\r\n\r\n"], "closed"), ([wire.packet(b"M", b"<a@inside.example>")], "closed"),
    ([wire.packet(b"M", b"")], "closed"), ([mail(), wire.packet(b"R", b"")], "closed"),
    ([wire.packet(b"D", b""), mail()], "closed")])
def test_a_client_is_answered_alike(both: Both, said: list[bytes], last: str) -> None:
    at = address()
    heard = both.hear([OFFER, client(at), *said])
    assert heard[1] == "c"
    assert heard[-1] == last.format(at.removesuffix("1") + "/64")


@pytest.mark.parametrize("said", [wire.packet(b"O", b"short"), wire.packet(b"O")])
def test_an_offer_that_is_none_is_answered_alike(both: Both, said: bytes) -> None:
    assert both.hear([said, client(address())]) == ["closed"]


@pytest.mark.parametrize("said", [
    wire.packet(b"C", b"name\0U"), wire.packet(b"C", b"name\0L\0\0/run/socket\0"), client("192.0.2.77"),
    client("IPv6:2001:db8:ffff::1"), wire.packet(b"C", b"no family\0"), wire.packet(b"C", b"")])
def test_every_family_of_client_is_answered_alike(both: Both, said: bytes) -> None:
    both.hear([OFFER, said, mail()])


def test_a_connection_that_is_kept_for_the_next_client_is_answered_alike(both: Both) -> None:
    first, second = address(), address()
    heard = both.hear([OFFER, client(first), *message() * 3, ANOTHER, client(second), mail(), rcpt(), ABORT, ANOTHER,
                       client(first), mail(), ABORT, QUIT])
    assert [answer[0] for answer in heard[1:]] == list("c" * 10 + "ccc" + "cy")


def test_connections_at_once_are_answered_alike(both: Both) -> None:
    at, lines = address(), {path: [Line(path) for _ in range(4)] for path in (both.ours, both.reference)}
    heard = {path: [(line.say(OFFER), line.say(client(at)), line.say(mail())) for line in of]
             for path, of in lines.items()}
    for line in (*lines[both.ours], *lines[both.reference]):
        line.close()
    assert heard[both.ours] == heard[both.reference]
    assert [connected[:5] for _, connected, _ in heard[both.ours]] == ["c", "c", "y421 ", "y421 "]


@dataclass(frozen=True)
class Transaction:
    """What a client of an MTA wants."""

    sender: str
    login: str
    recipients: list[bool]  # whether the MTA itself takes each
    finished: bool
    content: int  # how much of CONTENT the MTA sends although nobody has asked for it


transactions = st.builds(
    Transaction, st.sampled_from(["<a@inside.example>", "<>", "<B@Inside.example>"]),
    st.sampled_from(["", "", "somebody", "else"]), st.lists(st.booleans(), max_size=5), st.booleans(),
    st.integers(0, len(CONTENT)))


def mta(path: str, addresses: list[str], wanted: list[list[Transaction]], name: str) -> list[str]:
    """An MTA that does as it is told: what is refused is not gone on with."""
    heard = []
    for at, clients in zip(addresses, wanted, strict=True):
        line = Line(path)
        line.say(OFFER)
        line.say(macros(b"C", v="Postfix 3.7.11"))
        if line.say(client(at, name)) == "c":
            for transaction in clients:
                transact(line, transaction)
        line.say(QUIT)
        line.close()
        heard += line.heard
    return heard


def transact(line: Line, transaction: Transaction) -> None:
    line.say(macros(b"M", _auth_authen_=transaction.login) if transaction.login else macros(b"M", _mail_mailer_="smtp"))
    if line.say(mail(transaction.sender)) == "c":
        taken = False
        for accepted in transaction.recipients:
            line.say(macros(b"R", _rcpt_mailer_="smtp" if accepted else "error"))
            taken |= line.say(rcpt()) == "c" and accepted
        if taken and transaction.finished:
            for said in CONTENT[:transaction.content]:
                line.say(said)
            line.say(macros(b"E", i="4F1A2B3C"))
            line.say(END)
            return
    line.say(ABORT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(transactions, max_size=6), min_size=1, max_size=3), st.sampled_from(["trusted.example", "x"]))
def test_whatever_an_mta_wants_it_is_answered_alike(both: Both, wanted: list[list[Transaction]], name: str) -> None:
    addresses = [address() for _ in wanted]
    ours = mta(both.ours, addresses, wanted, name)
    assert ours == mta(both.reference, addresses, wanted, name)
    assert len(ours) > len(wanted)


# What no MTA does, and where libmilter leaves it without an answer, so that both would wait for hours, or lets pass
# what it has not been asked about. Ours answers or hangs up.
@pytest.mark.parametrize(("said", "ours", "reference"), [
    ([mail(), rcpt(), END, END], ["c", "c", "c", "t"], ["c", "c", "c", "silent"]),
    ([mail(), ABORT, END], ["c", "t"], ["c", "silent"]), ([ANOTHER, client("2001:db8::6")], ["c"], ["silent"]),
    ([END], ["t"], ["silent"]), ([rcpt()], ["c"], ["silent"]),
    ([client("2001:db8::5")], ["c"], ["silent"]), ([OFFER], ["closed"], ["silent"])])
def test_what_is_out_of_order_is_never_left_without_an_answer(both: Both, said: list[bytes], ours: list[str],
                                                             reference: list[str]) -> None:
    begin = [OFFER, client(address())]
    assert talk(both.ours, begin + said)[2:] == ours
    assert talk(both.reference, begin + said, 0.3)[2:] == reference


@pytest.mark.parametrize(("said", "ours", "reference"), [
    ([client("nonsense"), mail()], ["c", "c"], ["closed"]),  # a client without an address is limited like one
    ([wire.packet(b"C", b"name\0Z\0\0x\0"), mail()], ["c", "c"], ["closed"]),
    ([mail()], ["closed"], ["c"])])  # a message of nobody is not let pass
def test_a_client_that_cannot_be_named(both: Both, said: list[bytes], ours: list[str], reference: list[str]) -> None:
    assert talk(both.ours, [OFFER, *said])[1:] == ours
    assert talk(both.reference, [OFFER, *said])[1:] == reference
