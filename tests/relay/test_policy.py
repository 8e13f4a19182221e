"""A policy is right in every key, or each mistake in it is named; a verdict can only tighten."""

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.errors import ConfigError, Mistake
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier
from egressguard_milter.decision import Standing
from egressguard_milter.endpoint import parse_endpoint
from egressguard_milter.mistakes import mistakes, read_control_path, read_policy
from egressguard_milter.policy import LEVELS, RATES, Also, Base, Checks, ClientRule, Policy, Rule, Tiers
from tests.broken_parts import broken_values, misspelt_keys, toml
from tests.relay.parts import mail, parts, send

Damage = Callable[[dict[str, Any]], Iterator[tuple[str, dict[str, Any]]]]
HOST = Host("192.0.2.1")
SAMPLE = Path(__file__).parents[2] / "milter/egressguard-milter.toml"


def test_the_sample_says_what_holds_without_it() -> None:
    assert read_policy(SAMPLE) == Policy()


def test_every_key_of_the_policy_stands_in_the_sample() -> None:
    text = SAMPLE.read_text()
    missing = [key for kind in (Policy, Base, ClientRule, Rule, Checks) for key in kind.__dataclass_fields__
               if not re.search(rf"^(# )?(\[+)?{key}( = |[].])", text, re.MULTILINE)]
    assert missing in ([], ["tier", "hold_queue"])  # these two stand in a sentence
    assert 'tier = "held"' in text
    assert "hold_queue = true" in text


def test_the_samples_examples_are_right_too(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", SAMPLE.read_text(), flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(text)
    policy = read_policy(tmp_path / "all.toml")
    assert policy.client
    assert policy.limits.also
    assert policy.login_limits.messages == 100


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


EVERYTHING = """
exchange = "valkeys://relay@192.0.2.20?password=/etc/pw&ca=/etc/ca"
exchange_key = "/etc/key"
socket = "inet:8892@127.0.0.1"
state = "/var/lib/egressguard/relay"
relays = 2
[limits]
messages = 40
unlimited = ["recipients"]
also = [{ messages = 500, window_s = 86400 }]
[groups.shops]
messages = 10
shared = { messages = 100 }
[[client]]
match = ["192.0.2.0/24", "198.51.100.7"]
group = "shops"
[[client]]
match = ["203.0.113.9"]
messages = 5
[sender_limits]
recipients = 50
[[sender]]
match = ["news.example"]
unlimited = ["messages"]
[[login]]
match = ["shop"]
messages = 7
[tiers.suspect]
factor = 0.9
factors = { recipients = 0.5 }
[tiers.compromised]
tier = "held"
hold_queue = true
"""


# The administrator chooses these names: another one is no unknown key, but what it is named for is missing.
CHOSEN = {"groups.shopsx": "client.0.group",
          "tiers.suspect.factors.recipientsx": "tiers.suspect.factors"}


def read_mistakes(folder: Path, text: str) -> tuple[Mistake, ...]:
    path = folder / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    return caught.value.mistakes


@pytest.mark.parametrize("damage", [broken_values, misspelt_keys])
def test_a_part_that_fails_has_no_consequences(tmp_path: Path, damage: Damage) -> None:
    good = tomllib.loads(EVERYTHING)
    (tmp_path / "good.toml").write_text(toml(good))
    assert read_policy(tmp_path / "good.toml")
    broken = list(damage(good))
    assert len(broken) > 25
    for key, table in broken:
        assert {m.key for m in read_mistakes(tmp_path, toml(table))} == {CHOSEN.get(key, key)}, key


def test_the_mistakes_of_every_stage_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = read_mistakes(tmp_path, """
socket = "inet:8892"
nonsense = 1
relays = "two"
exchange = "http://192.0.2.1"
exchange_key = "key"
[limits]
messages = 0
recipients = "many"
[[client]]
match = ["192.0.2.300", 7]
group = "shops"
[[client]]
mach = ["192.0.2.9"]
messages = 0
[tiers.suspect]
tier = "hled"
[tiers.compromised]
factor = 7.0
""")
    assert [m.key for m in found] == [
        "socket", "nonsense", "relays", "exchange", "exchange_key", "limits.messages", "limits.recipients",
        "client.0.match", "client.0.match.1", "client.0.group", "client.1.mach", "client.1.messages",
        "tiers.suspect.tier", "tiers.compromised.factor"]


@pytest.mark.parametrize("key", ["state", "socket", "exchange", "metrics", "exchange_key", "relay"])
def test_a_nul_in_a_text_is_a_mistake(tmp_path: Path, key: str) -> None:
    (tmp_path / "policy.toml").write_text(f'{key} = "unix:/a\\u0000b"\n')
    with pytest.raises(ConfigError, match=f"{key}: .* has a NUL character: remove it"):
        read_policy(tmp_path / "policy.toml")


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


def standing(policy: Policy, state: State) -> Standing:
    relay = parts(policy, {HOST: state})
    return relay.limits.scaled(relay.limits.allowance(ip_address(HOST)), 0.0).standing


@given(st.integers(1, 100_000), st.floats(0.0001, 1), st.floats(0.0001, 1))
def test_a_verdict_never_gives_more_and_never_nothing_by_rounding(
        messages: int, one: float, other: float) -> None:
    policy = Policy(limits=Base(messages=messages),
                    tiers=Tiers(Rule(max(one, other)), Rule(min(one, other))))
    clean, suspect, compromised = (standing(policy, state).limit for state in State)
    assert clean >= suspect >= compromised >= 1


@pytest.mark.parametrize(("messages", "factor", "limit"), [
    (40, 0.5, 20), (40, 0.1, 4), (100, 0.29, 29), (3, 0.5, 1), (1, 0.1, 1), (40, 1.0, 40)])
def test_a_factor_means_what_it_says(messages: int, factor: float, limit: int) -> None:
    policy = Policy(limits=Base(messages=messages), tiers=Tiers(suspect=Rule(factor)))
    assert standing(policy, State.SUSPECT) == Standing(Tier.TIGHTENED, limit, State.SUSPECT)


def test_the_worse_verdict_must_not_be_the_milder_one() -> None:
    assert [m.key for m in mistakes(Policy(tiers=Tiers(Rule(0.1), Rule(0.5))))] == ["tiers.compromised"]
    assert [m.key for m in mistakes(Policy(tiers=Tiers(Rule(tier="held"), Rule(0.5))))] \
        == ["tiers.compromised"]
    assert not list(mistakes(Policy(tiers=Tiers(Rule(0.1), Rule(tier="held")))))


def test_a_factor_of_its_own_for_a_limit_counts_for_that_limit_only() -> None:
    policy = Policy(limits=Base(messages=100, recipients=100, recipients_per_message=100),
                    tiers=Tiers(suspect=Rule(0.5, factors={"recipients": 0.1, "recipients_per_message": 0.2})))
    limits = parts(policy).limits
    allowance = limits.allowance(ip_address(HOST))
    _, (claim,), levels, _ = limits.scaled_under(allowance, State.SUSPECT)
    assert [cap.most for cap in claim.caps] == [50, 10, 10]  # the last one: refused recipients
    assert levels["recipients_per_message"] == 20


def usual(verdict: State, *rules: ClientRule, base: Base | None = None) -> dict[str, int]:
    """Every limit of a client under a verdict."""
    limits = parts(Policy(limits=base or Base(), client=rules)).limits
    scaled = limits.scaled_under(limits.allowance(ip_address(HOST)), verdict)
    return {RATES[cap.kind]: cap.most for cap in scaled.claims[0].caps} | dict(scaled.levels)


def test_by_default_recipients_are_limited_in_every_way_and_a_verdict_scales_each() -> None:
    assert usual(State.CLEAN) == {"messages": 40, "recipients": 400, "refused_recipients": 20, "open_connections": 200,
                                  "recipients_per_message": 100}
    assert usual(State.COMPROMISED) == {"messages": 2, "recipients": 20, "refused_recipients": 1, "open_connections": 10,
                                        "recipients_per_message": 5}


def test_recipients_follow_the_messages_of_the_client_unless_something_is_said_of_them() -> None:
    much = ClientRule(match=(HOST,), messages=1000, also=(Also(messages=5000),))
    limits = parts(Policy(client=(much,))).limits
    caps = limits.allowance(ip_address(HOST)).claim.caps
    assert [(c.most, c.window_s) for c in caps if RATES[c.kind] == "recipients"] == [(10_000, 600.0), (50_000, 86400.0)]
    assert usual(State.CLEAN, much, base=Base(recipients=300))["recipients"] == 300
    assert "recipients" not in usual(State.CLEAN, replace(much, unlimited=("recipients",)))
    assert "recipients" not in usual(State.CLEAN, ClientRule(match=(HOST,), unlimited=("messages",)))


def test_a_compromised_client_gets_little_out_however_it_tries() -> None:
    relay = parts(Policy(), {HOST: State.COMPROMISED})
    got = 0
    for _ in range(50):
        session = relay.session(HOST)
        if mail(session).accepted:
            got += sum(session.recipient("outside.example", 0.0).accepted for _ in range(1000))
            session.end_of_message(0.0)
        session.close(0.0)
    assert 0 < got <= 20
    guesser = parts(Policy(), {HOST: State.COMPROMISED}).session(HOST)
    mail(guesser)
    guesser.recipient_refused(0.0)
    assert guesser.recipient("outside.example", 0.0).limit == "refused_recipients"


EVERYTHING_UNLIMITED = ClientRule(match=(HOST,), unlimited=(*RATES, *LEVELS))


@pytest.mark.parametrize("base", [Base(), Base(unlimited=("messages", "recipients_per_message"))])
def test_what_is_unlimited_is_limited_for_a_compromised_client(base: Base) -> None:
    assert usual(State.CLEAN, EVERYTHING_UNLIMITED, base=base) == {"open_connections": 200}
    assert usual(State.SUSPECT, EVERYTHING_UNLIMITED, base=base) == {"open_connections": 100}
    assert usual(State.COMPROMISED, EVERYTHING_UNLIMITED, base=base) == usual(State.COMPROMISED)
    assert usual(State.COMPROMISED, EVERYTHING_UNLIMITED, base=Base(messages=100, window_s=60.0))["messages"] == 5
    relay = parts(Policy(limits=base, client=(EVERYTHING_UNLIMITED,)), {HOST: State.COMPROMISED})
    assert send(relay.session(HOST), 5000) == 2


def test_a_state_folder_is_beside_the_exchange_unless_it_is_said() -> None:
    assert str(Policy(relay="a/b", exchange="sqlite:/x/y.db").state_folder) == "/x/a_b.relay"
    assert str(Policy(state="/s").control_path) == "/s/control"


def test_mistakes_in_rules_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("""
state = "relative"
[limits]
messages = 40
unlimited = ["mesages"]
also = [{ window_s = 0.5, messages = 500 }]
[checks]
senders = false
[[client]]
match = ["192.0.2.0/24", "192.0.2.1/24", "not a name"]
group = "absent"
[[client]]
match = ["192.0.2.0/24"]
open_connections = 0
[client.shared]
messages = 0
[[client]]
messages = 3
[groups.web]
recipients = 0
[[sender]]
match = ["no sender", "a@x.example", "A@X.example"]
connections = 3
[sender_limits]
refused_recipients = 3
[tiers.suspect]
factor = 0.5
hold_queue = true
factors = { messages = 2.0, messags = 0.5 }
""")
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert sorted(m.key for m in caught.value.mistakes) == sorted([
        "state", "limits.unlimited", "limits.also.0.window_s", "client.0.match", "client.0.match",
        "client.0.group", "client.1.match", "client.1.open_connections", "client.1.shared.messages",
        "client.2.match", "groups.web.recipients", "sender.0.match", "sender.0.match", "sender.0.connections",
        "sender_limits.refused_recipients", "tiers.suspect.factors.messages", "tiers.suspect.factors",
        "tiers.suspect.hold_queue"])


def test_an_unknown_key_in_a_rule_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[[client]]\nmatch = ['192.0.2.1']\nmesages = 3\n")
    with pytest.raises(ConfigError, match=r"client\.0\.mesages: unknown key; did you mean 'messages'"):
        read_policy(path)
    path.write_text("[[client]]\nmatch = ['192.0.2.1']\n[client.shared]\nmesages = 3\n")
    with pytest.raises(ConfigError, match=r"client\.0\.shared\.mesages: unknown key; did you mean 'messages'"):
        read_policy(path)


def test_every_limit_has_a_switch() -> None:
    from egressguard_milter.mistakes import LIMITS
    assert set(LIMITS) | {"senders", "logins"} == set(Checks.__dataclass_fields__)


def test_the_longest_window_is_kept() -> None:
    from egressguard_milter.policy import Rates
    assert Policy().horizon_s == 600.0
    shared = Rates(messages=9, also=(Also(messages=100, window_s=86400.0),))
    assert Policy(client=(ClientRule(match=("192.0.2.1",), shared=shared),)).horizon_s == 86400.0

def test_the_commands_find_the_milter_of_a_file_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    for places in ('state = "/s"\n', "relay = 'mx1'  # ours\nexchange = \"sqlite:/x/y.db\"\n", ""):
        path.write_text(places + "[limits]\nmessages = 3\n")
        right = read_control_path(path)
        for damage in ("recipients = \n", 'relay = "other"\n[[client\n', "\x00\x01\n", "messages = 4\n"):
            path.write_text(places + "[limits]\nmessages = 3\n" + damage)
            assert read_control_path(path) == right
        path.write_bytes(path.read_bytes() + b"\xff\n")
        assert read_control_path(path) == right
    path.write_text('state = "relative"\nnonsense =\n')
    with pytest.raises(ConfigError):
        read_control_path(path)
    with pytest.raises(ConfigError):
        read_control_path(tmp_path / "absent")
