"""What is left in the exchange can be read back, and nothing else can."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.core.documents import (
    Bulletin,
    Client,
    Origin,
    Report,
    decode_bulletin,
    decode_report,
    encode_bulletin,
    encode_report,
)
from egressguard.core.hosts import Host
from egressguard.core.verdict import State, Tier

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
origins = st.builds(Origin, names, st.integers(0, 2**53), st.integers(0, 2**53))
hosts = names.map(Host)
counts = st.integers(0, 2**62)
lifetimes = st.floats(0.1, 86400)
bulletins = st.builds(Bulletin, origins, lifetimes, st.dictionaries(hosts, st.sampled_from(State)))
clients = st.builds(Client, st.sampled_from(Tier), counts, counts, counts, connections=counts, most_open=counts,
                    most_messages=counts)
reports = st.builds(Report, origins, lifetimes, st.dictionaries(hosts, clients))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


@given(bulletins)
def test_a_bulletin_survives(bulletin: Bulletin) -> None:
    assert decode_bulletin(encode_bulletin(bulletin)) == bulletin


@given(reports)
def test_a_report_survives(report: Report) -> None:
    assert decode_report(encode_report(report)) == report


@given(st.text() | json_values.map(json.dumps))
def test_anything_else_is_a_value_error(text: str) -> None:
    for decode in (decode_bulletin, decode_report):
        with pytest.raises(ValueError, match=r"."):
            decode(text)


@given(bulletins, st.sampled_from(["name", "epoch", "sequence", "lifetime_s", "entries"]), json_values)
def test_a_forged_field_is_a_value_error_or_a_document(bulletin: Bulletin, key: str, value: object) -> None:
    body = json.loads(encode_bulletin(bulletin))
    body[key] = value
    try:
        decoded = decode_bulletin(json.dumps(body))
    except ValueError:
        return
    assert 0 < decoded.lifetime_s <= 86400
    assert decoded.origin.sequence >= 0


@pytest.mark.parametrize("lifetime", ["1e999", "NaN", "-1", "0", '"30"', "true"])
def test_a_lease_cannot_be_for_ever(lifetime: str) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        decode_bulletin(f'{{"name":"r","epoch":1,"sequence":1,"lifetime_s":{lifetime},"entries":{{}}}}')


@pytest.mark.parametrize(("volumes", "known"), [
    ([5, 1, 1, 1, 9], Client(Tier.NORMAL, 40, 5, 0, {}, 5, 1, 1, 1, 9)),
    ([5, 1, 1, 1, 9, 7, 3, 2], Client(Tier.NORMAL, 40, 5, 0, {}, 5, 1, 1, 1, 9, 7, 3, 2)),
    ([5, 1, 1, 1, 9, 7, 3, 2, 99], Client(Tier.NORMAL, 40, 5, 0, {}, 5, 1, 1, 1, 9, 7, 3, 2)),
])
def test_a_report_of_an_earlier_relay_is_read_and_so_is_one_of_a_later(volumes: list[int], known: Client) -> None:
    body = {"name": "relay", "epoch": 1, "sequence": 1, "lifetime_s": 30,
            "entries": {"198.51.100.12": ["normal", 40, 5, 0, {}, *volumes]}}
    assert decode_report(json.dumps(body)).clients == {Host("198.51.100.12"): known}
