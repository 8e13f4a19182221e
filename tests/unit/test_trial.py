"""Which configuration is in force, and what the kernel ends by itself, as functions of what is written down."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.config import Site
from egressguard.configurations import Configurations
from egressguard.core.errors import EgressguardError
from egressguard.core.metrics_place import place_mistakes
from egressguard.core.plan import Change, diff
from egressguard.core.ruleset import CONFIGURED, Sets
from egressguard.core.settings import Settings
from egressguard.core.trial import GRACE_S, Version, in_force, temporary, timed, unconfirmed
from egressguard.database import Database

OLD, TRIED = Version(1, "a", "in force"), Version(2, "b", "trial", "boot", 100.0)
NOTHING: Sets = {name: frozenset() for name in CONFIGURED}
SENDER = ("dmz", "192.0.2.10")


@pytest.mark.parametrize(("boot", "now_s", "wanted"), [("boot", 99.0, TRIED), ("boot", 100.0, OLD), ("next boot", 1.0, OLD)])
def test_a_trial_is_in_force_until_its_end_and_in_no_other_boot(boot: str, now_s: float, wanted: Version) -> None:
    assert in_force([OLD, TRIED], boot, now_s) == wanted
    assert unconfirmed([OLD, TRIED], "b", boot, now_s) == (wanted is OLD)
    assert not unconfirmed([OLD, TRIED], "a", boot, now_s)


def test_only_what_a_trial_adds_gets_a_time_and_a_confirmation_takes_it_away() -> None:
    want = {**NOTHING, "allow4": frozenset({SENDER}), "smtp_ports": frozenset({("25",)})}
    times = temporary(want, NOTHING, 60.0)
    assert times["allow4"] == {SENDER: 60.0 + GRACE_S}
    tried = {change.set_name: change for change in timed(diff(NOTHING, want), want, {}, times)}
    assert tried["allow4"].timeouts_s == {SENDER: 62.0}
    assert not tried["smtp_ports"].timeouts_s
    assert timed((), want, {"allow4": {SENDER: 61.0}}, times) == ()
    assert timed((), want, {"allow4": {SENDER: 61.0}}, {}) == (Change("allow4", (SENDER,), (SENDER,)),)
    assert timed((), want, {"allow4": {SENDER: float("inf")}}, {}) == ()


def site(text: str) -> Site:
    return Site(Settings(inside=()), Path("/nowhere/egressguard.nft"), text=text)


@pytest.fixture
def configurations(tmp_path: Path) -> Iterator[Configurations]:
    database = Database(tmp_path / "d.db", "boot")
    yield Configurations(database, tmp_path / "egressguard.toml")
    database.close()


def test_a_configuration_that_was_refused_is_taken_over_by_no_start(configurations: Configurations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Configurations, "_read", lambda self, number: site(f"configuration {number}"))
    first = configurations.put_in_force(site("a"))
    number = configurations.propose(site("b"), 1.0)
    configurations.begin(number, 60.0, 1.0)
    assert configurations.version(2.0).number == number  # type: ignore[union-attr]
    with pytest.raises(EgressguardError, match="on trial"):
        configurations.check_none_on_trial(2.0)
    with pytest.raises(EgressguardError, match="too late"):
        configurations.confirm(61.0)
    assert configurations.decide(site("b"), 61.0).number == first
    assert configurations.decide(site("c"), 61.0).number is None
    assert configurations.refuse(number) == number
    assert configurations.refuse(number) is None
    assert configurations.decide(site("b"), 62.0).number == first


def test_of_two_that_begin_at_once_one_does(configurations: Configurations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Configurations, "_read", lambda self, number: site(f"configuration {number}"))
    configurations.put_in_force(site("a"))
    numbers = [configurations.propose(site(text), 1.0) for text in "bc"]
    configurations.begin(numbers[0], 60.0, 1.0)
    with pytest.raises(EgressguardError, match="just been put on trial"):
        configurations.begin(numbers[1], 60.0, 1.0)


@pytest.mark.parametrize("text", ["localhost:9725", ":9725", "127.0.0.1", "127.0.0.1:0", "unix:relative", "unix:/" + "x" * 200])
def test_a_place_for_metrics_that_is_none_is_named(text: str) -> None:
    assert [m.key for m in place_mistakes(text)] == ["metrics"]


@pytest.mark.parametrize("text", ["", "127.0.0.1:9725", "[::1]:9725", "unix:/run/egressguard/metrics"])
def test_a_place_for_metrics(text: str) -> None:
    assert not list(place_mistakes(text))
