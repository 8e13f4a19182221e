"""Killing the milter buys no quota, neither does the wall clock, a reboot, a torn record or a full disk."""

import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard_milter import segments
from egressguard_milter.account import Kind, Pool
from egressguard_milter.ledger import Cap, Claim, Hold, Ledger
from egressguard_milter.records import Record
from egressguard_milter.segments import HEADER, Segments, SegmentsError
from tests.promises import promise

KEY, HORIZON_S, SIZE = "192.0.2.1", 600.0, 4096
KILLS = 100


def claim(limit: int, key: str = KEY, window_s: float = HORIZON_S) -> Claim:
    return Claim(key, (Cap(Kind.MESSAGES, limit, window_s),))


class Life:
    """One process' memory of counts; `end` is what the kernel does when it is killed."""

    def __init__(self, folder: Path, now_s: float = 0.0, boot: str = "boot-1", size: int = SIZE) -> None:
        self.memory = Segments(folder, boot, size)
        self.ledger = Ledger(HORIZON_S, 10_000, self.memory)
        self.ledger.remember(self.memory.load(HORIZON_S, now_s), now_s)

    def send(self, count: int, now_s: float, limit: int = 10, key: str = KEY) -> int:
        accepted = 0
        for _ in range(count):
            answer = self.ledger.reserve([claim(limit, key)], now_s)
            if isinstance(answer, Hold):
                self.ledger.settle(answer, 1, now_s)
                accepted += 1
        return accepted

    def end(self) -> None:
        os.close(self.memory._lock)


def test_the_next_process_knows_what_the_last_one_accepted(tmp_path: Path) -> None:
    accepted = 0
    for now_s in range(0, 600, 60):
        life = Life(tmp_path, now_s)
        accepted += life.send(3, now_s)
        life.end()
    assert accepted == 10
    assert Life(tmp_path, 600.0).send(100, 600.0) == 3


def test_more_than_one_file_is_filled_and_old_ones_go(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for now_s in range(1000):
        life.send(1, now_s, key=f"192.0.2.{now_s % 200}")
        life.memory.maintain(HORIZON_S, now_s)
    files = list(tmp_path.glob("counts.*"))
    assert 2 < len(files) < 1000 * 60 / SIZE
    life.end()
    after = Life(tmp_path, 1000.0)
    assert len(after.ledger) == 200
    assert all(after.ledger.usage(f"192.0.2.{n}", claim(9).caps, 1000.0) == [3] for n in range(7, 200, 7))


def test_a_reboot_counts_what_was_as_if_it_had_just_been(tmp_path: Path) -> None:
    life = Life(tmp_path, 50_000.0)
    for now_s in (50_000.0, 50_300.0):
        assert life.send(5, now_s) == 5
    life.end()
    after = Life(tmp_path, 20.0, boot="boot-2")
    assert after.send(9, 20.0) == 0
    assert after.send(9, 301.0) == 5, "the first five were 300 s older than the others"
    assert after.send(9, 601.0) == 5


def test_what_a_client_had_used_of_a_shared_account_is_its_own_use_after_a_kill(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.ledger.resize(HORIZON_S, 1)
    life.send(1, 0.0, key="203.0.113.1")  # takes the only place

    def send(life: Life, count: int, now_s: float) -> int:
        crowded = claim(10)._replace(neighbours="network 192.0.2.0/24")
        accepted = 0
        for _ in range(count):
            if isinstance(answer := life.ledger.reserve([crowded], now_s), Hold):
                life.ledger.settle(answer, 1, now_s)
                accepted += 1
        return accepted

    assert send(life, 4, 1.0) == 4
    life.ledger.resize(HORIZON_S, 100)
    assert send(life, 20, 2.0) == 6, "in an account of its own, with what it had used in the other"
    life.end()
    assert send(Life(tmp_path, 3.0), 20, 3.0) == 0


def test_a_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    life = Life(tmp_path)
    with pytest.raises(SegmentsError, match="another egressguard-milter") as caught:
        Life(tmp_path)
    assert caught.value.busy
    life.end()
    Life(tmp_path)


def test_what_was_forgiven_stays_forgiven(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.send(20, 0) == 10
    life.ledger.forgive(KEY, 1)
    assert life.send(3, 2) == 3
    life.end()
    assert Life(tmp_path, 3.0).send(20, 3.0) == 7


records = st.lists(st.builds(
    Record, st.text(max_size=100), st.sampled_from(list(Pool)),
    st.none() | st.tuples(*[st.integers(0, 65535)] * 4), st.floats(-1e6, 1e9)), max_size=20)
surrogates = st.text(st.characters(categories=("Cs", "L")), max_size=100)  # how bytes that are no UTF-8 are read


@given(records)
def test_what_is_written_is_what_is_read(wanted: list[Record]) -> None:
    data = bytes(HEADER) + b"".join(map(segments._encode, wanted)) + bytes(20)
    read = list(segments._decode(data))
    assert [(r.amounts, r.at_s) for r in read] == [(r.amounts, r.at_s) for r in wanted]
    assert [r.key for r in read] == [r.key for r in wanted]


@given(surrogates, st.tuples(*[st.integers(0, 10**6)] * 4))
def test_any_key_and_any_number_of_recipients_are_read_as_they_were_counted(
        key: str, amounts: tuple[int, int, int, int]) -> None:
    data = bytes(HEADER) + segments._encode(Record(key, Pool.SENDER, amounts, 1.0))
    read = list(segments._decode(data))
    assert {r.key for r in read} == ({key} if any(amounts) or read else set())
    assert tuple(map(sum, zip(*(r.amounts or () for r in read), strict=True))) in (amounts, ())


@pytest.mark.parametrize("sender", ["x@x.example", "\udcff\udcfe@x.example"])
def test_a_senders_limit_holds_over_restarts_whatever_its_bytes_are(tmp_path: Path, sender: str) -> None:
    accepted = 0
    for now_s in (0.0, 1.0, 2.0):
        life = Life(tmp_path, now_s)
        accepted += life.send(20, now_s, key=f"sender {sender}")
        life.end()
    assert accepted == 10


@given(records, st.integers(0, 10_000), st.binary(min_size=1, max_size=8), st.integers(0, 10_000))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_torn_or_damaged_file_gives_only_whole_records_and_never_an_error(
        wanted: list[Record], cut: int, damage: bytes, at: int) -> None:
    whole = b"".join(map(segments._encode, wanted))
    torn = bytearray(bytes(HEADER) + whole[:cut] + bytes(40))
    at %= len(torn)
    torn[at:at + len(damage)] = damage
    read = [(r.amounts, r.at_s) for r in segments._decode(bytes(torn))]
    assert read == [(r.amounts, r.at_s) for r in wanted][:len(read)]


@given(st.binary(max_size=300))
def test_any_file_can_be_read(data: bytes) -> None:
    list(segments._decode(data))


def test_a_disk_without_room_is_said_and_limits_hold(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")
    life = Life(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    accepted = sum(life.send(20, 0.0, key=f"198.51.100.{n}") for n in range(100))
    assert accepted == 1000
    assert life.memory.failed
    assert sum("event=counts_not_durable" in r.getMessage() for r in caplog.records) == 1
    monkeypatch.undo()
    life.memory.maintain(HORIZON_S, 1.0)
    assert not life.memory.failed
    assert life.send(20, 1.0, key="203.0.113.1") == 10
    life.end()
    assert Life(tmp_path, 2.0).send(20, 2.0, key="203.0.113.1") == 0


CHILD = """
import os, sys, time
from pathlib import Path
from egressguard_milter.account import Kind
from egressguard_milter.ledger import Cap, Claim, Hold, Ledger
from egressguard_milter.segments import Segments
memory = Segments(Path(sys.argv[1]), "boot-1", 1 << 14)
ledger = Ledger(600.0, 1000, memory)
ledger.remember(memory.load(600.0, time.monotonic()), time.monotonic())
claims = [Claim(f"192.0.2.{n}", (Cap(Kind.MESSAGES, int(sys.argv[2]), 600.0),)) for n in range(7)]
os.write(1, b"ready\\n")
for n in range(10**9):
    hold = ledger.reserve([claims[n % 7]], time.monotonic())
    if isinstance(hold, Hold):
        ledger.settle(hold, 1, time.monotonic())
    # What the client hears; a refusal too, so that the flood can be counted.
    os.write(1, b"%d\\n" % (n % 7) if isinstance(hold, Hold) else b"no\\n")
    memory.maintain(600.0, time.monotonic())
"""


def flood_until_killed(folder: Path, limit: int, delay_s: float) -> list[bytes]:
    """Every answer that a client of a process heard before it was killed."""
    read, write = os.pipe()
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", CHILD, str(folder), str(limit)], os.environ,
                           file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    os.close(write)
    data = os.read(read, 6)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(read, 65536):
        data += piece
    os.close(read)
    assert data.startswith(b"ready\n")
    return data.split(b"\n")[1:-1]


def test_a_hundred_kills_during_a_flood_never_let_more_than_the_limit_pass(tmp_path: Path) -> None:
    """Seven clients; the flood offers more than ten times what they may; every answer heard counts."""
    limit, chance, heard = 150, random.Random(7), list[bytes]()
    for _ in range(KILLS):
        heard += flood_until_killed(tmp_path, limit, chance.uniform(0, 0.004))
    while len(heard) < 10 * 7 * limit:
        heard += flood_until_killed(tmp_path, limit, 0.02)
    life = Life(tmp_path, time.monotonic())
    for n in range(7):
        accepted, counted = heard.count(b"%d" % n), life.ledger.usage(f"192.0.2.{n}", claim(9).caps, time.monotonic())
        assert limit - KILLS <= accepted <= counted[0] == limit, "a kill may cost the message it hit, and no more"
    most = max(heard.count(b"%d" % n) for n in range(7))
    promise(9, f"most messages that one of 7 clients with a limit of {limit} had accepted over all SIGKILLs of a flood "
            "at ten times the limit", most, f"at most {limit}", f"{KILLS} SIGKILLs, {len(heard)} attempts")


def test_no_wall_clock_is_read() -> None:
    """A jump of it can change nothing that never asks for it: neither time.time nor datetime is used."""
    sources = (Path(segments.__file__).parent).glob("*.py")
    used = [path.name for path in sources
            if any(word in path.read_text() for word in ("time.time", "import time as", "datetime", "CLOCK_REALTIME", "time.localtime"))]
    assert used == []


def test_a_record_costs_few_bytes() -> None:
    assert len(segments._encode(Record("2001:db8:0:1234::/64", Pool.STRANGER, (0, 1, 1, 0), 1.0))) <= 64
    assert struct.calcsize("=IH") == segments.PREFIX.size
