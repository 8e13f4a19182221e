"""Limits learnt from history: tight, but not too tight; and written into a policy that stays its owner's."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from egressguard.cli import cli
from egressguard.cli.policy_file import MARKS, replaced, write
from egressguard.core.errors import EgressguardError
from egressguard.core.hosts import Host
from egressguard.core.tuning import delayed, missing, proposals
from egressguard.core.volumes import Volume
from egressguard.database import Database
from egressguard.relay_records import add_volumes
from egressguard_milter.policy import LEVELS, RATES

SITE = Path(__file__).parents[2] / "docs/examples/egressguard.toml"


@given(st.lists(st.integers(0, 50), min_size=20, max_size=100), st.sampled_from([0.0, 0.01, 0.1]))
def test_a_proposal_delays_no_more_than_the_target_and_one_less_would(counts: list[int], target: float) -> None:
    history = {n: Volume(accepted=count) for n, count in enumerate(counts)}
    for proposal in proposals(history, target):
        assert proposal.delayed <= target * proposal.total
        assert proposal.limit == 1 or delayed(counts, proposal.limit - 1) > target * proposal.total


@given(st.lists(st.integers(0, 50), max_size=50), st.integers(1, 60))
def test_a_higher_limit_never_delays_more(counts: list[int], limit: int) -> None:
    assert delayed(counts, limit + 1) <= delayed(counts, limit) <= sum(counts)


def test_a_burst_waits_and_is_delayed_once() -> None:
    assert delayed([100, 0, 0], 40) == 60
    assert delayed([100, 40, 0], 40) == 100


def test_too_little_history_proposes_nothing() -> None:
    assert proposals({n: Volume(accepted=5) for n in range(11)}) == []


def test_where_a_limit_was_at_work_it_is_said() -> None:
    [messages] = proposals({n: Volume(accepted=40, deferred=9) for n in range(20)})
    assert messages.least


ALL = {"connections", "messages", "recipients", "refused_recipients", "open_connections", "recipients_per_message",
       "messages_per_connection"}


@given(st.lists(st.builds(Volume, st.integers(0, 3), st.just(0), st.integers(0, 5), st.integers(0, 1), st.just(0),
                          st.just(0), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_each_limit_of_a_relay_is_proposed_or_it_is_said_why_not(windows: list[Volume]) -> None:
    assert {*RATES, *LEVELS} == ALL, "a new limit must be proposed, or be named as one without data"
    history = dict(enumerate(windows))
    found = proposals(history)
    proposed = [p.kind for p in found]
    assert sorted([*proposed, *missing(history, found)]) == sorted(ALL)


@given(st.lists(st.integers(1, 50), min_size=20, max_size=60), st.sampled_from([0.0, 0.01, 0.1]))
def test_recipients_of_a_message_are_learnt_where_a_window_had_but_one(sizes: list[int], target: float) -> None:
    history = {n: Volume(1, 0, size, 0) for n, size in enumerate(sizes)}
    [found] = [p for p in proposals(history, target) if p.kind == "recipients_per_message"]
    assert found.delayed == sum(size > found.limit for size in sizes) <= target * len(sizes)
    assert found.limit == 1 or sum(size > found.limit - 1 for size in sizes) > target * len(sizes)


@given(st.lists(st.integers(1, 50), min_size=20, max_size=300), st.sampled_from([0.0, 0.01, 0.1]))
def test_what_is_open_at_once_and_comes_in_one_connection_is_exceeded_in_the_target_share_of_windows(
        peaks: list[int], target: float) -> None:
    history = {n: Volume(1, most_open=peak, most_messages=2 * peak) for n, peak in enumerate(peaks)}
    found = {p.kind: p for p in proposals(history, target)}
    for kind, times in (("open_connections", 1), ("messages_per_connection", 2)):
        limit = found[kind].limit
        assert found[kind].delayed == sum(times * peak > limit for peak in peaks) <= target * len(peaks)
        assert limit == times * min(peaks) or sum(times * peak >= limit for peak in peaks) > target * len(peaks)


def test_connections_wait_as_messages_do() -> None:
    history = {n: Volume(9, connections=3 + (n == 50) * 30) for n in range(100)}
    [found] = [p for p in proposals(history, 0.1) if p.kind == "connections"]
    assert found.delayed == delayed([v.connections for v in history.values()], found.limit)
    assert 3 <= found.limit < 33


def test_recipients_of_a_message_are_not_guessed_from_a_windows_mean() -> None:
    history = {n: Volume(10, 0, 25, 0) for n in range(50)} | {n: Volume(1, 0, 2, 0) for n in range(100, 105)}
    found = proposals(history)
    assert "recipients_per_message" not in [p.kind for p in found]
    assert "too few windows" in missing(history, found)["recipients_per_message"]


def test_the_owners_part_of_a_policy_is_kept_byte_for_byte() -> None:
    mine = "# mine\n[limits]\nmessages = 40   # so many\n"
    once = replaced(mine, "[[client]]\nmatch = [\"198.51.100.11\"]\n")
    assert once.startswith(mine)
    twice = replaced(once, "# other\n")
    assert twice.startswith(mine)
    assert "198.51.100.11" not in twice
    assert replaced(f"{once}# after\n", "").endswith(f"{MARKS[1]}\n# after\n")
    assert replaced(mine, "") == mine


def test_half_a_mark_is_refused() -> None:
    with pytest.raises(EgressguardError, match="not both there"):
        replaced(f"{MARKS[0]}\n", "x")


def test_a_policy_is_written_whole_and_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("a = 1\n")
    path.chmod(0o640)
    write(path, "b = 2\n")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("b = 2\n", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def site(tmp_path: Path) -> Path:
    config = tmp_path / "egressguard.toml"
    config.write_text(f'database = "{tmp_path}/d.db"\n' + SITE.read_text())
    database = Database(tmp_path / "d.db", "boot")
    for n in range(200):
        with database.transaction() as db:
            add_volumes(db, {Host("198.51.100.11"): Volume(5 + (n % 40 == 0) * 60, 0, 6, 0, 0, 0, 4, 2 + n % 2, 3),
                             Host("198.51.100.12"): Volume(3, 0, 3, 0),
                             Host("192.0.2.10"): Volume(500, 0, 500, 0)}, 10**9 + n)
    database.close()
    return config


def test_a_policy_is_proposed_and_written_and_a_rule_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    config, policy = site(tmp_path), tmp_path / "policy.toml"
    policy.write_text('# mine\nrelay = "relay"\n[[client]]\nmatch = ["198.51.100.12"]\nmessages = 7\n')
    done = CliRunner().invoke(cli, ["tune", "--config", str(config), "--write", str(policy)])
    assert done.exit_code == 0, done.output
    assert "198.51.100.11 web1\n  messages = " in done.output
    assert "192.0.2.10" not in done.output, "a sender has no limit of this kind"
    assert "  connections = 4: would have delayed 0 of 800 (0.00%) in 200 windows, the largest 4\n" in done.output
    assert "  open_connections = 3: would have been exceeded in 0 of 200 windows (0.00%), the largest 3\n" in done.output
    assert "198.51.100.12 web2\n  messages = 3" in done.output
    for kind in ("connections", "open_connections", "messages_per_connection", "refused_recipients"):
        assert f"  {kind}: no proposal, relays have told of none" in done.output
    written = tomllib.loads(policy.read_text())
    assert policy.read_text().startswith("# mine\n")
    assert [c["match"][0] for c in written["client"]] == ["198.51.100.12", "198.51.100.11"]
    limits = written["client"][1]
    assert limits["messages"] > 5
    assert [limits[kind] for kind in ("connections", "open_connections", "messages_per_connection")] == [4, 3, 3]
    again = policy.read_text()
    assert CliRunner().invoke(cli, ["tune", "--config", str(config), "--write", str(policy)]).exit_code == 0
    assert policy.read_text() == again, "written twice is written once"
    from egressguard_milter.mistakes import read_policy
    assert [c.match for c in read_policy(policy).client][1][0] == "198.51.100.11", "the relay takes it"


def test_a_policy_that_is_none_is_not_touched(tmp_path: Path) -> None:
    config, policy = site(tmp_path), tmp_path / "policy.toml"
    policy.write_text("this is [ no TOML")
    done = CliRunner().invoke(cli, ["tune", "--config", str(config), "--write", str(policy)])
    assert isinstance(done.exception, EgressguardError)
    assert policy.read_text() == "this is [ no TOML"
