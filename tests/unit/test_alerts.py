"""What is told once, what is held back, and that nobody can write into an alert what is not his to write."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.alarm import Alarm
from egressguard.boot import boot_id
from egressguard.core import alerts
from egressguard.core.alerts import Alert, Evidence, Told, Tried, Where, clean, decide
from egressguard.core.attempts import Totals
from egressguard.core.exposure import Exposure, Program
from egressguard.core.hosts import Host
from egressguard.core.notify_settings import Notify, notify_mistakes
from egressguard.core.settings import Settings
from egressguard.core.verdict import State, Transition
from egressguard.database import Database
from egressguard.heartbeat import Pulse
from egressguard.notify import mail_of
from egressguard.outbox import TEST, Outbox

WHERE = Where("router", lambda s: f"{s:.0f} s+00:00")
NOTIFY = Notify(mail_to=("noc@example.org",), mail_from="egressguard@example.org", mail_server="192.0.2.20", webhook="http://192.0.2.1/", most_per_hour=3)
EVIL = "x\r\nBcc: victim@example.net\r\n\r\nbody\x1b[31m\x00\N{RIGHT-TO-LEFT OVERRIDE}"


def alert(key: str = "a") -> Alert:
    return Alert("verdict", key, "title", "text\n", "now")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "d.db", "boot")
    yield opened
    opened.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database, "boot")


def test_the_same_is_told_once_and_then_how_often_it_was_held_back(outbox: Outbox) -> None:
    told = [outbox.post([alert()], NOTIFY, WHERE, at_s) for at_s in (0.0, 10.0, 3599.0, 3600.0)]
    assert [len(found) for found in told] == [1, 0, 0, 1]
    assert "2 of the same were held back" in told[3][0].text
    assert [w.channel for w in outbox.waiting()] == ["mail", "webhook"] * 2


def test_more_than_so_many_an_hour_are_held_back_and_that_is_told_once(outbox: Outbox) -> None:
    told = [a.kind for n in range(10) for a in outbox.post([alert(str(n))], NOTIFY, WHERE, float(n))]
    assert told == ["verdict"] * 3 + ["limit"]
    assert [a.kind for a in outbox.post([alert("later")], NOTIFY, WHERE, 3700.0)] == ["verdict"]


def test_every_owner_is_told_in_the_end_however_many_there_are_at_once(database: Database) -> None:
    alarm, settings = Alarm(database), Settings(notify=NOTIFY)
    hosts = [f"198.51.100.{n}" for n in range(10)]
    news = [(Transition(Host(host), State.SUSPECT, State.COMPROMISED, 1.0, 9.0, 9, "spam"), Evidence("", (host,), (25,), (), ()))
            for host in hosts]
    for at_s in range(0, 5 * 3600, 30):
        alarm.look(settings, Pulse(1, float(at_s), 0.1), None, news if at_s == 0 else [])
    told = [waiting.alert for waiting in Outbox(database, boot_id()).waiting("mail")]
    assert [a.key for a in told if a.kind == "limit"]
    assert sorted(host for a in told if a.kind == "verdict" for host in hosts if f"{host} looks" in a.title) == hosts


def test_another_boots_times_hold_nothing_back(database: Database) -> None:
    Outbox(database, "boot").post([alert()], NOTIFY, WHERE, 5000.0)
    assert Outbox(database, "next boot").post([alert()], NOTIFY, WHERE, 1.0)


def test_what_failed_waits_with_the_reason_and_what_was_delivered_is_gone(outbox: Outbox) -> None:
    outbox.post([alert()], NOTIFY, WHERE, 1.0)
    first, second = outbox.waiting()
    outbox.tried(first.number, "nobody listens")
    outbox.delivered(second.number)
    left = outbox.waiting()
    assert [(w.number, w.tries, w.error) for w in left] == [(first.number, 1, "nobody listens")]
    assert left[0].alert == alert()


def test_a_test_waits_for_nobody_and_counts_as_no_alert(outbox: Outbox, database: Database) -> None:
    outbox.post([alert()], NOTIFY, WHERE, 1.0)
    numbers = outbox.post_tests(alert("test"), ("mail", "webhook"))
    assert [w.alert.key for w in outbox.waiting()] == ["a", "a"]
    assert outbox.waiting_count() == 2
    assert [w.alert.key for w in outbox.waiting("mail")] == ["a"]
    assert [w.number for w in outbox.waiting(TEST + "mail")] == [numbers["mail"]]
    assert [outbox.outcome(number) for number in numbers.values()] == [None, None]
    outbox.tried(numbers["mail"], "nobody listens")
    outbox.tried(numbers["webhook"], "")
    assert [outbox.outcome(number) for number in numbers.values()] == ["nobody listens", ""]


def test_a_test_whose_asker_was_killed_goes_with_a_later_one(outbox: Outbox, database: Database) -> None:
    outbox.post([alert()], NOTIFY, WHERE, 1.0)
    left = outbox.post_tests(alert("test"), ("mail",))["mail"]
    assert outbox.waiting(TEST + "mail")[0].number == left
    with database.transaction() as db:
        db.execute("UPDATE outbox SET wall = '2020-01-01T00:00:00.000Z'")
    new = outbox.post_tests(alert("test"), ("mail",))["mail"]
    assert [w.number for w in outbox.waiting(TEST + "mail")] == [new]
    assert outbox.waiting_count() == 2, "no alert goes, however old"


@pytest.mark.parametrize(("last", "lately", "wanted"), [
    (None, 0, "tell"), (Told(50.0), 0, "same"), (Told(-1000.0), 0, "tell"), (None, 3, "too many"), (Told(200.0), 0, "tell")])
def test_decisions(last: Told | None, lately: int, wanted: str) -> None:
    assert decide(last, lately, 100.0, 600.0, 3) == wanted


def evil_alerts(text: str) -> list[Alert]:
    host = Host("198.51.100.12")
    step = Transition(host, State.CLEAN, State.SUSPECT, 1.0, 3.0, 3, text)
    found = [alerts.of_step(step, Evidence(text, (text,), (25,), (Tried(text, 1, 1.0),), (text,)), WHERE),
             alerts.of_exposure(Exposure(text, (text,), (Program(text, 1),), 0, 0, 0, (text,), 1), WHERE),
             alerts.of_silence(f"relay {text}", text, 1.0, WHERE)]
    overflow = alerts.of_overflow(Totals(), Totals(overflow=3), 1.0, WHERE)
    return [*found, *([overflow] if overflow else [])]


@given(st.one_of(st.just(EVIL), st.text()))
def test_nothing_that_somebody_else_wrote_can_forge_a_header_a_line_or_a_terminal(text: str) -> None:
    for found in evil_alerts(text):
        mail = mail_of(found, 1, text, NOTIFY)
        assert set(mail) == {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Egressguard-Kind",
                             "Content-Type", "Content-Transfer-Encoding", "MIME-Version"}
        parsed = mail.as_bytes()
        assert b"\nBcc:" not in parsed
        assert found.title.isprintable()
        assert all(line.isprintable() for line in found.text.split("\n"))
        assert len(found.text.split("\n")) < 60


def test_mutant_without_cleaning_a_line_can_be_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "clean", lambda text, most=0: str(text))
    with pytest.raises(AssertionError):
        for found in evil_alerts(EVIL):
            assert all(line.isprintable() for line in found.text.split("\n"))


def test_what_is_cleaned_is_one_printable_line_of_bounded_length() -> None:
    assert clean("a\nb\x7f", 10) == "a��b�".replace("��", "�")
    assert len(clean("x" * 1000)) == 300


@pytest.mark.parametrize(("change", "key"), [
    ({"mail_to": ("noc",)}, "mail_to"), ({"mail_to": ("a@example.org\nBcc: b@example.org",)}, "mail_to"),
    ({"mail_from": ""}, "mail_from"), ({"mail_from": "x"}, "mail_from"), ({"mail_server": "mail.example.org"}, "mail_server"),
    ({"mail_port": 0}, "mail_port"), ({"webhook": "ftp://192.0.2.1/"}, "webhook"), ({"webhook": "http://"}, "webhook"),
    ({"webhook": "http://192.0.2.1/\r\nX: y"}, "webhook"), ({"webhook": "http://192.0.2.1:x/"}, "webhook"),
    ({"command": ("on-alert",)}, "command"), ({"command": ("/bin/x", "a\0")}, "command"),
    ({"repeat_s": 1.0}, "repeat_s"), ({"most_per_hour": 0}, "most_per_hour")])
def test_a_mistake_is_named(change: dict[str, object], key: str) -> None:
    values = {**{f: getattr(NOTIFY, f) for f in NOTIFY.__slots__}, **change}
    assert {m.key for m in notify_mistakes(Notify(**values))} == {f"notify.{key}"}


def test_the_settings_of_these_tests_are_good_and_so_are_none() -> None:
    assert not list(notify_mistakes(NOTIFY))
    assert not list(notify_mistakes(Notify()))
