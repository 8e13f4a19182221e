"""Nothing that anybody can write makes a parser fail in a way of its own: a value, or the error it promises."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import strategies as st

from egressguard.core.documents import (
    MAX_LIMITS,
    Client,
    Origin,
    Report,
    decode_bulletin,
    decode_report,
    encode_report,
)
from egressguard.core.errors import ConfigError
from egressguard.core.hosts import Host
from egressguard.core.verdict import Tier
from egressguard_milter.importing import import_text
from egressguard_milter.mistakes import read_control_path, read_policy
from egressguard_milter.policy import Base, Checks, ClientRule, Group, KeyRates, KeyRule, Policy, Rule
from egressguard_milter.requests import Request, parse_request
from egressguard_milter.terms import Directory
from egressguard_milter.ze_filter import (
    CLIENT_LIMITS,
    DEFAULTS,
    LOGIN_LIMITS,
    OTHER_PREFIXES,
    SENDER_LIMITS,
    SWITCHES,
)
from tests.promises import promise
from tests.relay.fuzzing import MemoryFile, changed, fuzz

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
                    max_leaves=12)
KEYS = st.sampled_from([*Policy.__dataclass_fields__, "messages", "also", "match", "shared", "window_s", "factor",
                        "factors", "tier", "suspect", "unlimited", "group", "recipients", "hold_queue"])
VALUES = st.recursive(
    st.booleans() | st.integers(-5, 2000) | st.floats(-1, 2000) | st.just(float('nan')) | st.text(max_size=12)
    | st.sampled_from(["192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "a.example", "<>", "held", "messages", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8)


def fuzzed(what: str, full: bool, check: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
    """Fuzzes a parser, and says how often."""
    cases = fuzz(full, check, *strategies)
    promise(12, f"generated cases of {what} that raise something other than the promised error", 0, 0, f"{cases} cases")


def keys_of(*kinds: type) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with the keys of these types and values that are often right."""
    names = [name for kind in kinds for name in kind.__dataclass_fields__]  # type: ignore[attr-defined]
    right = {"match": st.lists(st.sampled_from(["192.0.2.1", "192.0.2.0/24", "a.example", "b@a.example", "<>", "x y"]),
                               max_size=2),
             "group": st.sampled_from(["web", "x"]), "window_s": st.floats(0, 1e5), "factors": VALUES,
             "shared": st.just({"messages": 3}), "also": st.just([{"messages": 9, "window_s": 60.0}]),
             "unlimited": st.lists(st.sampled_from(["messages", "x"]), max_size=1),
             "tier": st.sampled_from(["held", "tightened"]), "factor": st.floats(0, 1.1), "hold_queue": st.booleans()}
    return st.fixed_dictionaries({}, optional={n: right.get(n, st.integers(-1, 50)) | VALUES for n in names})


TABLES = st.fixed_dictionaries({}, optional={
    "limits": keys_of(Base), "checks": keys_of(Checks), "client": st.lists(keys_of(ClientRule), max_size=2),
    "groups": st.fixed_dictionaries({}, optional={"web": keys_of(Group)}), "sender_limits": keys_of(KeyRates),
    "sender": st.lists(keys_of(KeyRule), max_size=2), "login": st.lists(keys_of(KeyRule), max_size=2),
    "tiers": st.fixed_dictionaries({}, optional={"suspect": keys_of(Rule), "compromised": keys_of(Rule)})})


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, (bool, float)) else json.dumps(value)


def test_a_parser_that_fails_at_what_was_not_drawn_is_found_and_the_case_is_named() -> None:
    def check(text: str) -> None:
        assert isinstance(text, str)
        if "\x85" in text:
            raise ZeroDivisionError
    with pytest.raises(AssertionError, match=r"ZeroDivisionError: : the case: \(.*\\x85"):
        changed(check, [("a = 1",), ("b = 2",)], 20_000)


@pytest.fixture
def file() -> Iterator[MemoryFile]:
    found = MemoryFile()
    yield found
    found.close()


def test_any_policy_is_a_policy_or_a_list_of_mistakes(file: MemoryFile, full: bool) -> None:
    def check(text: str) -> None:
        file.write(text, "surrogatepass")
        try:
            policy = read_policy(file.path)
            Directory(policy).client(ip_address("192.0.2.1"), "www.a.example")
        except ConfigError as error:
            assert error.mistakes
        with suppress(ConfigError):
            assert read_control_path(file.path).is_absolute()
    texts = (TABLES | st.dictionaries(KEYS, VALUES, max_size=4)).map(
        lambda table: "\n".join(f"{key} = {toml(value)}" for key, value in table.items()))
    fuzzed("a policy", full, check, texts | st.text(max_size=60))


ADDRESSES = st.ip_addresses().map(str) | st.sampled_from([
    "192", "192.0", "192.0.2", "192.0.2.", "192.0.2.1", "2001:db8", "2001:db8::", "2001:db8:0:11", "::1", "999",
    "default", "DEFAULT", "*", "LOCAL", "dnsbl", "host.example", ".example.org", "a@b.example", "a@", "*@b.example",
    "nullsender", "", "IPv6:2001:db8::1", "[192.0.2.1]", "192.0.2.0/24", "\x7f", '"\\', "ü.example"])
WORDS = [*CLIENT_LIMITS, *SENDER_LIMITS, *LOGIN_LIMITS, *OTHER_PREFIXES, "NetClass", "ConnRate", "MsgRate", "Connect",
         "ClientRate", "ClientConn", "From", "Spam", "nothing"]
ENTRIES = st.builds("{}:{}{}{}".format, st.sampled_from(WORDS), ADDRESSES | st.text(max_size=12),
                    st.sampled_from([" ", "\t", "\t\t ", "", "\n"]),
                    st.integers(-5, 10**7).map(str) | st.sampled_from(["RELAY", "OK", "REJECT", "LOCAL", "x", "²"])
                    | st.text(max_size=12))
SETTINGS = st.builds("{} {}".format, st.sampled_from([*SWITCHES, *DEFAULTS, "CHECK_NOTHING"]),
                     st.sampled_from(["YES", "NO", "yes", "10", "-1", "x"]))
FILES = st.lists(ENTRIES | SETTINGS | st.text(max_size=30), max_size=8).map("\n".join)


def test_any_import_becomes_a_policy_that_can_be_read(file: MemoryFile, full: bool) -> None:
    def check(of_sendmail: bool, text: str) -> None:
        draft = import_text(text, "access" if of_sendmail else "ze-filter")
        assert all("\n" not in remark.text for remark in draft.remarks)
        file.write(draft.toml("file"))
        Directory(read_policy(file.path)).client(ip_address("2001:db8::1"), "host.example")
    fuzzed("an import of ze-filter's policy or sendmail's access", full, check,
           st.booleans(), FILES)


def test_any_line_on_the_control_socket_is_a_request_or_a_value_error(full: bool) -> None:
    bodies = st.fixed_dictionaries({}, optional={
        "command": st.sampled_from(["status", "explain", "forgive", "clients", "reload", "x"]) | JSON,
        "client": ADDRESSES | st.sampled_from(["sender x", "group web"]) | JSON, "name": st.text(max_size=500) | JSON,
        "count": st.integers() | JSON, "more": JSON})

    def check(line: bytes) -> None:
        try:
            assert isinstance(parse_request(line), Request)
        except ValueError as error:
            assert 0 < len(str(error)) < 500
    fuzzed("a request on the control socket", full, check, (bodies | JSON).map(lambda body: json.dumps(body).encode()) | st.binary(max_size=100))


COUNTS = st.integers(0, 2**63 - 1)
CLIENTS = st.builds(Client, st.sampled_from(list(Tier)), COUNTS, COUNTS, COUNTS,
                    st.dictionaries(st.sampled_from(["messages", "recipients", "held"]), COUNTS), COUNTS, COUNTS,
                    COUNTS, COUNTS, COUNTS)


def test_a_report_is_the_same_after_the_exchange_and_damage_is_a_value_error(full: bool) -> None:
    def check(client: Client, cut: int, piece: str, value: Any) -> None:
        report = Report(Origin("relay", 1, 1), 30.0, {Host("192.0.2.1"): client})
        text = encode_report(report)
        assert decode_report(text) == report
        body = json.loads(text)
        body["entries"]["192.0.2.1"] = value
        for damaged in (text[:cut % len(text)] + piece, json.dumps(body), piece):
            for decode in (decode_report, decode_bulletin):
                try:
                    decode(damaged)
                except ValueError:
                    continue
    fuzzed("a document of the exchange", full, check, CLIENTS, st.integers(0, 1000), st.text(max_size=20),
           JSON | st.lists(JSON | st.sampled_from(["normal"]), min_size=4, max_size=10))


def test_a_report_of_a_relay_that_counts_less_is_understood() -> None:
    text = ('{"name":"r","epoch":1,"sequence":1,"lifetime_s":30.0,"entries":'
            '{"192.0.2.1":["tightened",4,1,2]}}')
    assert decode_report(text).clients == {Host("192.0.2.1"): Client(Tier.TIGHTENED, 4, 1, 2)}
    assert MAX_LIMITS < 100
