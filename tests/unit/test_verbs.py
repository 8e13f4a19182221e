"""What a verb says of other routers."""

from ipaddress import ip_address
from pathlib import Path

from egressguard.cli import orders
from egressguard.core.documents import Bulletin, Origin
from egressguard.core.hosts import Host
from egressguard.core.settings import Machine, Settings
from egressguard.core.verdict import State
from egressguard.exchange import open_exchange


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
