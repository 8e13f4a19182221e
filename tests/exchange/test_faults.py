"""Whatever happens to the server, a relay has the tightened limit or the base limit, never more; and once it is
over, all agree again within one lifetime. On the real server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egressguard.core.documents import KINDS
from egressguard.exchange import open_exchange
from lab.interference import Interference
from lab.valkey import Server
from tests import promises
from tests.exchange.sites import BASE, LIFETIME_S, TIGHT, Everybody
from tests.exchanges import key_file


@pytest.fixture
def proxy(server: Server) -> Iterator[Interference]:
    with Interference(server.port) as found:
        yield found


@pytest.fixture
def everybody(server: Server, proxy: Interference, tmp_path: Path) -> Iterator[Everybody]:
    """Two routers and two relays who agree that the host is compromised."""
    key = key_file(tmp_path)
    found = Everybody(tmp_path, lambda: open_exchange(f"valkey://127.0.0.1:{proxy.port}", key))
    found.compromise()
    found.until(TIGHT, LIFETIME_S)
    yield found
    proxy.delay_s, proxy.swallows = 0.0, False
    found.close()


def flush(server: Server, proxy: Interference) -> Callable[[], object]:
    server.command("FLUSHALL")
    return lambda: None


def restart(server: Server, proxy: Interference) -> Callable[[], object]:
    server.stop()
    return server.start


def cut(server: Server, proxy: Interference) -> Callable[[], object]:
    proxy.cut()
    return lambda: None


def partition(server: Server, proxy: Interference) -> Callable[[], object]:
    proxy.swallows = True
    return lambda: setattr(proxy, "swallows", False)


def slow(server: Server, proxy: Interference) -> Callable[[], object]:
    proxy.delay_s = 0.5
    return lambda: setattr(proxy, "delay_s", 0.0)


def out_of_memory(server: Server, proxy: Interference) -> Callable[[], object]:
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.command("CONFIG", "SET", "maxmemory", "1")
    return lambda: server.command("CONFIG", "SET", "maxmemory", "0")


def wrong_type(server: Server, proxy: Interference) -> Callable[[], object]:
    for key in [f"egressguard:{kind}{rest}" for kind in KINDS for rest in ("", ":r0", ":r1", ":relay0", ":relay1")]:
        server.command("DEL", key)
        server.command("LPUSH", key, "x")
    return lambda: None


FAULTS = [flush, restart, cut, partition, slow, out_of_memory, wrong_type]
# While these last nobody can be heard, so the verdicts lapse.
SILENCING = [restart, partition, slow, out_of_memory]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_short_fault_costs_nothing_and_all_agree_again_within_a_lifetime(
        everybody: Everybody, server: Server, proxy: Interference, fault: Callable[..., Callable[[], object]]) -> None:
    heal = fault(server, proxy)
    everybody.run(1.0)
    assert {relay.limit(everybody.now_s) for relay in everybody.relays} == {TIGHT}, "the lease goes on"
    heal()
    took_s = everybody.until(TIGHT, LIFETIME_S)
    promises.promise(7, f"all agree again after: {fault.__name__}", f"{took_s * 30 / LIFETIME_S:.1f} s",
                     "≤ 30 s, one lifetime", f"2 routers, 2 relays, the real server; lifetime scaled to {LIFETIME_S:.0f} s")


def test_another_type_at_our_keys_silences_nobody(everybody: Everybody, server: Server, proxy: Interference) -> None:
    """The verdict in force would hide that for one lifetime, so it is looked at after that."""
    wrong_type(server, proxy)
    everybody.run(LIFETIME_S + 1)
    assert {relay.limit(everybody.now_s) for relay in everybody.relays} == {TIGHT}, "by what was left since"


@pytest.mark.parametrize("fault", SILENCING)
def test_a_long_fault_means_base_limits_and_all_agree_again_within_a_lifetime(
        everybody: Everybody, server: Server, proxy: Interference, fault: Callable[..., Callable[[], object]]) -> None:
    heal = fault(server, proxy)
    everybody.run(LIFETIME_S + 1)
    assert {relay.limit(everybody.now_s) for relay in everybody.relays} == {BASE}
    assert all("exchange" in router.faults for router in everybody.routers), "every router says so"
    heal()
    everybody.until(TIGHT, LIFETIME_S)


def test_after_a_failover_all_use_the_replica_that_was_promoted(server: Server, tmp_path: Path) -> None:
    key = key_file(tmp_path)
    with Server() as primary, Server() as replica:
        replica.replicate(primary)
        url = f"valkey://127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
        everybody = Everybody(tmp_path, lambda: open_exchange(url, key))
        everybody.compromise()
        everybody.until(TIGHT, LIFETIME_S)
        primary.stop()
        everybody.run(1.0)
        replica.command("REPLICAOF", "NO", "ONE")
        everybody.until(TIGHT, LIFETIME_S)
        primary.start()
        primary.replicate(replica)  # the old one comes back, as a replica: nobody goes back to it
        everybody.run(2.0)
        everybody.until(TIGHT, LIFETIME_S)
        assert replica.command("DBSIZE") >= 6
        everybody.close()


def test_a_primary_that_becomes_a_replica_under_our_hands_is_left(tmp_path: Path) -> None:
    key = key_file(tmp_path)
    with Server() as first, Server() as second:
        url = f"valkey://127.0.0.1:{first.port},127.0.0.1:{second.port}"
        everybody = Everybody(tmp_path, lambda: open_exchange(url, key))
        everybody.compromise()
        everybody.until(TIGHT, LIFETIME_S)
        first.replicate(second)
        everybody.run(LIFETIME_S)
        everybody.until(TIGHT, LIFETIME_S)
        assert second.command("DBSIZE") >= 6
        everybody.close()


def test_an_attacker_at_the_server_can_only_bring_the_base_limits_back(
        everybody: Everybody, server: Server, proxy: Interference) -> None:
    """Who writes there without the site key: forged, replayed, swapped and truncated documents change nothing."""
    old = {key: server.command("GET", key) for key in server.command("KEYS", "egressguard:bulletin:*")}
    everybody.run(LIFETIME_S)
    harms: list[Callable[[bytes], bytes]] = [
        lambda t: b"{}", lambda t: t[:-5], lambda t: t.replace(b"compromised", b"clean"),
        lambda t: b"{" + t.partition(b"{")[2], lambda t: t]
    for number, harm in enumerate(harms):
        for key, text in old.items():
            server.command("SET", key, harm(text))
            server.command("HSET", "egressguard:bulletin", key.rpartition(b":")[2], f"forged{number}")
        everybody.step()
        assert {relay.limit(everybody.now_s) for relay in everybody.relays} == {TIGHT}
        everybody.until(TIGHT, LIFETIME_S)
    counted = [relay.watch._link._exchange.counts["forged"] for relay in everybody.relays]  # type: ignore[union-attr]
    assert min(counted) >= 7, counted
    assert min(relay.signals.replayed for relay in everybody.relays) >= 2
    promises.promise(7, "forged, truncated, altered and replayed bulletins that changed a limit", 0, 0,
                     f"{len(old) * 5} at each of 2 relays, {sum(counted)} counted as forged, the others as replayed")
