"""A verb and the daemon carry out the same order at the same time."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard.cli import orders
from egressguard.core.documents import Bulletin, Origin
from egressguard.core.errors import KernelError
from egressguard.core.hosts import Host
from egressguard.core.settings import Machine, Settings
from egressguard.core.verdict import State
from egressguard.exchange import open_exchange


class Raced:
    """An enforcement whose elements somebody else removes between the look and the change, `times` times."""

    def __init__(self, times: int) -> None:
        self.times, self.applied, self.faults = times, 0, dict[str, str]()

    def loaded(self) -> bool:
        return True

    def apply(self, now_s: float) -> None:
        self.applied += 1
        if self.applied <= self.times:
            raise KernelError("changing set elements: No such file or directory")


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_verb_looks_again_when_the_daemon_was_faster(times: int) -> None:
    raced = Raced(times)
    orders._carry_out(raced)  # type: ignore[arg-type]
    assert raced.applied == times + 1


def test_what_fails_each_time_is_an_error() -> None:
    with pytest.raises(KernelError):
        orders._carry_out(Raced(3))  # type: ignore[arg-type]


def test_a_release_says_where_else_the_host_is_judged(tmp_path: Path) -> None:
    """Relays go by the worst that any router says."""
    url, web, web6 = f"sqlite:{tmp_path}/x.db", Host("198.51.100.12"), Host("2001:db8:0:12::/64")
    machine = Machine("web2", (ip_address("198.51.100.12"), ip_address("2001:db8:0:12::2")))
    settings = Settings(exchange=url, router="r1", host=(machine,))
    assert orders.elsewhere(web, settings) == [], "nobody can be asked"
    exchange = open_exchange(url)
    for name, verdicts in (("r1", {web: State.COMPROMISED}), ("r2", {web6: State.COMPROMISED}),
                           ("r3", {Host("198.51.100.13"): State.SUSPECT})):
        exchange.publish(Bulletin(Origin(name, 1, 1), 30.0, verdicts))
    exchange.close()
    assert orders.elsewhere(web, settings) == ["router r2 says that it is compromised: release it there as well"]
