"""`egressguard-milter init`: one command, and the relay's policy is written, can be used, and the MTA can be connected."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard_milter import cli_init
from egressguard_milter.cli import cli
from egressguard_milter.first_policy import Wishes, policy_text
from egressguard_milter.mistakes import read_policy

ROOT = Path(__file__).parents[2]
SAMPLE = (ROOT / "milter/egressguard-milter.toml").read_text()


def init(config: Path, *arguments: str, says: str = "") -> Result:
    return CliRunner().invoke(cli, ["init", "--config", str(config), *arguments], input=says)


def written(config: Path) -> dict[str, int | None]:
    return {text: rule.messages for rule in read_policy(config).client for text in rule.match}


def test_flags_are_enough(tmp_path: Path) -> None:
    config = tmp_path / "etc/policy.toml"
    done = init(config, "--yes", "--network", "198.51.100.0/24", "--network", "2001:db8::/64", "--mailserver", "198.51.100.20",
                "--messages", "30", "--mta", "postfix", "--relay", "mx1", "--socket", "unix:/run/mta/limits")
    assert done.exit_code == 0, done.output
    policy = read_policy(config)
    assert (policy.relay, policy.socket, policy.limits.messages, policy.limits.window_s) == ("mx1", "unix:/run/mta/limits", 30, 600)
    assert written(config) == {"198.51.100.0/24": None, "2001:db8::/64": None, "198.51.100.20": 1500}
    assert (policy.limits.recipients, policy.limits.recipients_per_message, policy.limits.refused_recipients) == (300, 100, 20)
    assert (policy.client[1].recipients, policy.client[1].refused_recipients) == (15000, 1000)
    assert config.stat().st_mode & 0o777 == 0o640
    assert not config.with_name("policy.toml.new").exists()


def test_what_is_not_given_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_init, "MTAS", {"postfix": tmp_path / "no", "sendmail": tmp_path / "neither"})
    config = tmp_path / "policy.toml"
    done = init(config, says="sendmail\n198.51.100.0/24, 2001:db8::/64\n198.51.100.20\n")
    assert done.exit_code == 0, done.output
    assert set(written(config)) == {"198.51.100.0/24", "2001:db8::/64", "198.51.100.20"}
    assert "--mta sendmail" in done.output
    assert "check --sendmail /etc/mail/sendmail.cf" in done.output


@pytest.mark.parametrize("there", ["postfix", "sendmail"])
def test_the_mta_that_is_there_is_found(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / there).touch()
    monkeypatch.setattr(cli_init, "MTAS", {name: tmp_path / name for name in ("postfix", "sendmail")})
    assert f"--mta {there} --role relay" in init(tmp_path / "policy.toml", "--yes").output


@pytest.mark.parametrize(("there", "said"), [((), "none of"), (("postfix", "sendmail"), "both of")])
def test_without_asking_an_mta_is_not_guessed(there: tuple[str, ...], said: str, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    for name in there:
        (tmp_path / name).touch()
    monkeypatch.setattr(cli_init, "MTAS", {name: tmp_path / name for name in ("postfix", "sendmail")})
    done = init(tmp_path / "policy.toml", "--yes")
    assert done.exit_code == 1
    assert f"{said} postfix and sendmail found: name one with --mta" in done.output
    assert not (tmp_path / "policy.toml").exists()


def test_the_commands_it_names_are_commands(tmp_path: Path) -> None:
    done = init(tmp_path / "policy.toml", "--yes", "--mta", "postfix", "--network", "198.51.100.0/24", "--socket", "inet:8893@::1")
    steps = [shlex.split(line) for line in done.output.partition("next:\n")[2].splitlines()]
    assert [step[:2] for step in steps] == [["egressguard-milter", "run"], ["egressguard-milter", "mta-config"],
                                            ["egressguard-milter", "check"], ["egressguard-milter", "status"]]
    printed = CliRunner().invoke(cli, steps[1][1:])
    assert printed.exit_code == 0
    assert "inet:[::1]:8893, default_action=tempfail" in printed.output
    for step in (steps[0], *steps[2:]):
        assert CliRunner().invoke(cli, [*step[1:], "--help"]).exit_code == 0


def test_a_sample_in_which_nothing_was_changed_is_written_over_and_its_folder_kept(tmp_path: Path) -> None:
    config = tmp_path / "policy.toml"
    config.write_text(SAMPLE.replace('\nstate = ""', f'\nstate = "{tmp_path}/counts"'))
    assert init(config, "--yes", "--mta", "postfix", "--network", "198.51.100.0/24").exit_code == 0
    assert read_policy(config).state == f"{tmp_path}/counts"
    assert set(written(config)) == {"198.51.100.0/24"}


def test_where_the_policy_is_gone_the_state_folder_is_the_one_that_the_unit_may_write_to(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, config = tmp_path / "sample.toml", tmp_path / "policy.toml"
    packaged.write_text(SAMPLE.replace('\nstate = ""', f'\nstate = "{tmp_path}/counts"'))
    monkeypatch.setattr(cli_init, "PACKAGED", packaged)
    monkeypatch.setattr(cli_init, "DEFAULT_PATH", config)
    for there in (None, "[limits\n"):
        if there is not None:
            config.write_text(there)
        assert init(config, "--yes", "--force", "--mta", "postfix").exit_code == 0
        assert read_policy(config).state == f"{tmp_path}/counts"
    elsewhere = tmp_path / "elsewhere.toml"
    assert init(elsewhere, "--yes", "--mta", "postfix").exit_code == 0
    assert read_policy(elsewhere).state == ""


@pytest.mark.parametrize("there", [SAMPLE.replace("messages = 40 ", "messages = 50 "), "[limits\n"])
def test_a_policy_is_not_written_over_unless_told_to(there: str, tmp_path: Path) -> None:
    config = tmp_path / "policy.toml"
    config.write_text(there)
    refused = init(config, "--yes", "--mta", "postfix")
    assert (refused.exit_code, config.read_text()) == (1, there)
    assert f"{config}: is a policy already; --force writes over it" in refused.output
    assert init(config, "--yes", "--mta", "postfix", "--force").exit_code == 0
    assert read_policy(config).limits.messages == 40


@pytest.mark.parametrize(("arguments", "said"), [
    (["--network", "198.51.100.0/33"], "client.0.match"), (["--messages", "0"], "limits.messages: 0 is out of range"),
    (["--socket", "inet:8892"], "socket"), (["--network", "198.51.100.1", "--mailserver", "198.51.100.1"], "stands in client.0.match already"),
    (["--exchange", "gopher://x"], "exchange")])
def test_what_would_not_be_right_is_not_written(arguments: list[str], said: str, tmp_path: Path) -> None:
    config = tmp_path / "policy.toml"
    done = init(config, "--yes", "--mta", "postfix", *arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_whatever_is_said_stays_within_its_string(relay: str, network: str) -> None:
    import tomllib
    found = tomllib.loads(policy_text(Wishes(relay, [network])))
    assert (found["relay"], found["client"]) == (relay, [{"match": [network]}])
