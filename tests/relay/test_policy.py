"""A policy is right in every key, or each mistake in it is named; a verdict can only tighten."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.errors import ConfigError
from egressguard.core.verdict import State, Tier
from egressguard_milter.endpoint import parse_endpoint
from egressguard_milter.policy import Base, Policy, Rule, Standing, Tiers, mistakes, read_policy

SAMPLE = Path(__file__).parents[2] / "milter/egressguard-milter.toml"


def test_the_sample_says_what_holds_without_it() -> None:
    assert read_policy(SAMPLE) == Policy()


def test_every_key_of_the_policy_stands_in_the_sample() -> None:
    text = SAMPLE.read_text()
    assert all(f"\n{key} = " in text or f"[{key}" in text for key in Policy.__dataclass_fields__)


def test_all_mistakes_are_named_at_once_with_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('socket = "inet:8892"\nexchange = "http://192.0.2.1"\nrelay = ""\n'
                    "[limits]\nmessages = 0\n[tiers.suspect]\nfactor = 1.5\n"
                    "[tiers.compromised]\ntier = 'tightened'\n")
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert {m.key for m in caught.value.mistakes} == {
        "relay", "socket", "exchange", "limits.messages", "tiers.suspect.factor",
        "tiers.compromised.factor"}
    assert str(caught.value).count(str(path)) == 6


def test_an_unknown_key_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[limits]\nmesages = 3\n")
    with pytest.raises(ConfigError, match="did you mean 'messages'"):
        read_policy(path)


@pytest.mark.parametrize(("text", "connection"), [
    ("inet:8892@127.0.0.1", "inet:8892@127.0.0.1"),
    ("inet:8892@localhost", "inet:8892@127.0.0.1"),
    ("inet:8892@::1", "inet6:8892@::1"),
    ("inet6:8892@[2001:db8::1]", "inet6:8892@2001:db8::1"),
    ("unix:/run/x/milter", "unix:/run/x/milter"),
])
def test_a_socket_is_understood(text: str, connection: str) -> None:
    assert parse_endpoint(text).connection == connection


@pytest.mark.parametrize("text", [
    "inet:8892", "inet:127.0.0.1:8892", "inet:0@127.0.0.1", "inet:65536@127.0.0.1", "inet:x@127.0.0.1",
    "inet:8892@", "inet:8892@mail.example", "unix:relative", "unix:/" + "x" * 107, "8892", "",
])
def test_a_socket_that_is_none_or_binds_everything_is_a_mistake(text: str) -> None:
    assert [m.key for m in mistakes(Policy(socket=text))] == ["socket"]


@given(st.integers(1, 100_000), st.floats(0.0001, 1), st.floats(0.0001, 1))
def test_a_verdict_never_gives_more_and_never_nothing_by_rounding(
        messages: int, one: float, other: float) -> None:
    policy = Policy(limits=Base(messages=messages),
                    tiers=Tiers(Rule(max(one, other)), Rule(min(one, other))))
    clean, suspect, compromised = (policy.standing(state).limit for state in State)
    assert clean >= suspect >= compromised >= 1


@pytest.mark.parametrize(("messages", "factor", "limit"), [
    (40, 0.5, 20), (40, 0.1, 4), (100, 0.29, 29), (3, 0.5, 1), (1, 0.1, 1), (40, 1.0, 40)])
def test_a_factor_means_what_it_says(messages: int, factor: float, limit: int) -> None:
    policy = Policy(limits=Base(messages=messages), tiers=Tiers(suspect=Rule(factor)))
    assert policy.standing(State.SUSPECT) == Standing(Tier.TIGHTENED, limit)


def test_the_worse_verdict_must_not_be_the_milder_one() -> None:
    assert [m.key for m in mistakes(Policy(tiers=Tiers(Rule(0.1), Rule(0.5))))] == ["tiers.compromised"]
    assert [m.key for m in mistakes(Policy(tiers=Tiers(Rule(tier="held"), Rule(0.5))))] \
        == ["tiers.compromised"]
    assert not list(mistakes(Policy(tiers=Tiers(Rule(0.1), Rule(tier="held")))))
