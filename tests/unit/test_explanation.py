"""A verdict in sentences: what is proposed, what is not, and what else it could be."""

import pytest

from egressguard.core.attempts import Attempts
from egressguard.core.detection import judge
from egressguard.core.explanation import as_dict, from_json, hold_proposed, sentences, to_json
from egressguard.core.forgery import Forgery
from egressguard.core.hosts import Host
from egressguard.core.settings import Detection
from egressguard.core.verdict import Verdict

WEB = Host("198.51.100.12")
SETTINGS = Detection()
FORGED = Forgery(WEB, frozenset({"00:00:5e:00:53:66"}), frozenset({"00:00:5e:00:53:0c"}))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"2001:db8:ffff::{n:x}" for n in range(count))


def bot(*more: tuple[Attempts, float]) -> Verdict:
    """Twenty new destinations in the first second, and what comes later."""
    verdicts: dict[Host, Verdict] = {}
    for attempts, at_s in ((Attempts(20, names(20)), 0.0), *more):
        verdicts |= judge(verdicts, {WEB: attempts}, SETTINGS, at_s)
    return verdicts[WEB]


PROVEN = bot((Attempts(0, verified=20, proven=names(20)), 1.0))


def told(verdict: Verdict, *forgeries: Forgery, unknown: bool = False) -> str:
    return " ".join(sentences("web2", verdict, from_json(to_json(verdict)), SETTINGS, verdict.at_s,
                              None if unknown else forgeries))


def test_whom_no_neighbour_can_have_framed_is_proposed_to_be_held() -> None:
    assert hold_proposed(PROVEN, ())
    assert as_dict(PROVEN, None, 1.0, ())["hold_proposed"] is True
    assert "that is enough to propose that the host is held" in told(PROVEN)


def test_whose_attempts_are_forged_is_not_proposed_to_be_held_in_any_sentence() -> None:
    assert not hold_proposed(PROVEN, FORGED.macs)
    assert as_dict(PROVEN, None, 1.0, [FORGED])["hold_proposed"] is False
    words = told(PROVEN, FORGED)
    assert "propose" not in words
    assert f"Some {FORGED.of('attempts')}; a neighbour may be framing it: do not hold it for these." in words


def test_where_nobody_could_ask_whether_they_are_forged_the_proposal_says_so() -> None:
    assert "whether its attempts are forged could not be asked here" in told(PROVEN, unknown=True)
    assert as_dict(PROVEN, None, 1.0, None)["forged_by"] is None


def test_attempts_alone_propose_nothing() -> None:
    assert "propose" not in told(bot())


@pytest.mark.parametrize(("later", "says"), [
    ((), "it has not tried its destinations again so far"),
    (((Attempts(20, (), 0, names(20)), 600.0),), "it has tried known destinations again as those do"),
])
def test_a_mail_server_that_nobody_knows_is_told_as_what_it_could_be(
        later: tuple[tuple[Attempts, float], ...], says: str) -> None:
    words = told(bot(*later))
    assert "A mail server that is not in the configuration begins in the same way" in words
    assert says in words
    assert "[[sender]]" in words


def test_nobody_else_is_told_of_mail_servers() -> None:
    assert "mail server" not in told(judge({}, {WEB: Attempts(1, names(1))}, SETTINGS, 0.0)[WEB])
