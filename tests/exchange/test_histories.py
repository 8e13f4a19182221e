"""Whatever an exchange loses, repeats, reorders or plays back: relays agree in the end, no attempt counts twice."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from egressguard.core import shared
from egressguard.core.documents import Bulletin
from egressguard.core.leases import Inbox, Lease
from tests import promises
from tests.exchange.histories import play


@pytest.mark.parametrize("restarts", [True, False])
def test_random_histories_end_in_agreement_and_count_nothing_twice(restarts: bool, full: bool) -> None:
    number = 5000 if full else 250
    convicted = sum(play(seed, restarts=restarts) for seed in range(number))
    assert convicted > number / 2, "relays that agree on nothing but clean hosts agree on little"
    how = "with restarts of routers and relays" if restarts else "without restarts"
    promises.promise(7, f"random histories of 1–4 routers and 1–4 relays that end in a divergence, or in which an attempt "
                     f"counted twice or not at all, {how}", 0, 0, f"{number} histories, {convicted} with a verdict: bulletins dropped, damaged, repeated, reordered, "
                     "played back")


def found_by_the_histories() -> bool:
    try:
        for seed in range(200):
            play(seed)
    except AssertionError:
        return True
    return False


def test_a_mutant_that_believes_old_bulletins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(self: Inbox[Bulletin], documents: Iterable[Bulletin], now_s: float) -> Inbox[Bulletin]:
        return Inbox({**self.leases, **{d.origin.name: Lease(d, now_s) for d in documents}})

    monkeypatch.setattr(Inbox, "receive", receive)
    assert found_by_the_histories()


def test_a_mutant_that_knows_another_epoch_but_not_a_newer_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before epochs were ordered."""
    original = Inbox.receive

    def receive(self: Inbox[Any], documents: Iterable[Any], now_s: float) -> Inbox[Any]:
        documents = list(documents)
        others = {d.origin.name for d in documents if d.origin.name in self.leases
                  and d.origin.epoch != self.leases[d.origin.name].document.origin.epoch}
        marks = {name: mark for name, mark in self.marks.items() if name not in others}
        return original(Inbox(self.leases, marks, self.replayed), documents, now_s)

    monkeypatch.setattr(Inbox, "receive", receive)
    assert found_by_the_histories()


def test_a_mutant_that_counts_a_past_that_it_finds_at_its_start_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = shared.Heard.hear

    def hear(self: shared.Heard, bulletins: Iterable[Bulletin], own: str) -> Any:
        bulletins = list(bulletins)
        known: Mapping[str, Any] = {b.origin.name: (b.origin.epoch, {}) for b in bulletins if b.origin.name != own}
        return original(shared.Heard({**known, **self.routers}), bulletins, own)

    monkeypatch.setattr(shared.Heard, "hear", hear)
    assert found_by_the_histories()


def test_a_mutant_that_takes_the_first_counts_of_a_restarted_router_for_its_past_is_found(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts too little, and only where a router restarts."""
    original = shared.Heard.hear

    def hear(self: shared.Heard, bulletins: Iterable[Bulletin], own: str) -> Any:
        bulletins = list(bulletins)
        epochs = {b.origin.name: b.origin.epoch for b in bulletins}
        same = {name: seen for name, seen in self.routers.items() if epochs.get(name, seen[0]) == seen[0]}
        return original(shared.Heard(same), bulletins, own)

    monkeypatch.setattr(shared.Heard, "hear", hear)
    assert found_by_the_histories()
