"""The mail that a host's owner reads, compared with a file beside this one; `pytest --write-golden` writes it anew."""

import re
from pathlib import Path

from egressguard.core import alerts
from egressguard.core.alerts import Evidence, Tried, Where
from egressguard.core.exposure import EVERYTHING, Exposure, Program
from egressguard.core.hosts import Host
from egressguard.core.notify_settings import Notify
from egressguard.core.verdict import State, Transition
from egressguard.notify import mail_of

FOLDER = Path(__file__).parent
WHERE = Where("router", lambda s: f"2026-03-01 02:{int(s // 60):02d}:{int(s % 60):02d}+01:00")
STEP = Transition(Host("198.51.100.12"), State.SUSPECT, State.COMPROMISED, 764.0, 13.8, 31, "31 attempts, 31 of them to new destinations")
EVIDENCE = Evidence("web2", ("198.51.100.12", "2001:db8:0:12::/64"), (25,), tuple(
    Tried(f"203.0.113.{n}" if n % 2 else f"2001:db8:ffff::{n}", 1 + n % 3, 760.0 - n) for n in range(31)), ("00:00:5e:00:53:0c",))
NOTIFY = Notify(mail_to=("noc@example.org", "owner@example.net"), mail_from="egressguard@example.org", mail_server="192.0.2.20")


def compare(name: str, text: str, write: bool) -> None:
    path = FOLDER / name
    if write:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text("utf-8")


def mail_text(alert: alerts.Alert) -> str:
    mail = mail_of(alert, 7, "router", NOTIFY)
    head = "".join(f"{name}: {value}\n" for name, value in mail.items() if name != "Date")
    return f"{head}\n{mail.get_content()}"


def test_the_mail_about_a_host(write_golden: bool) -> None:
    text = mail_text(alerts.of_step(STEP, EVIDENCE, WHERE))
    assert max(map(len, text.splitlines())) <= 110
    compare("alert-verdict.txt", text, write_golden)


def test_the_mail_about_an_exposure(write_golden: bool) -> None:
    exposure = Exposure("the table was gone", EVERYTHING, (Program("nft", 4711),), 60.0, 60.2, 60.25,
                        ("198.51.100.12 to 203.0.113.9:25",), 1)
    compare("alert-exposure.txt", mail_text(alerts.of_exposure(exposure, WHERE)), write_golden)


def test_every_time_has_its_zone() -> None:
    text = mail_text(alerts.of_step(STEP, EVIDENCE, WHERE)).replace("Message-ID", "")
    body = text.partition("\n\n")[2]
    times = re.findall(r"\d\d:\d\d:\d\d\S*", body)
    assert len(times) > 20
    assert all(time.endswith("+01:00") for time in times)
