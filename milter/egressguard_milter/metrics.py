"""The relay's metrics in Prometheus' words, from the answer that `status` gets; no label names a client."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

GAUGES = {
    "egressguard_milter_healthy": ("healthy", "1 when nothing is degraded."),
    "egressguard_milter_sessions": ("sessions", "Open connections of the MTA."),
    "egressguard_milter_max_clients": ("max_clients", "Strangers that may have an account of their own."),
    "egressguard_milter_routers_heard": ("routers_heard", "1 when a router's verdicts are fresh."),
    "egressguard_milter_clients_under_verdict": ("under_verdict", "Clients whose limits a verdict shrinks."),
    "egressguard_milter_uptime_seconds": ("uptime_s", "Since this milter started."),
}


def collector(status: Callable[[float], Mapping[str, Any]], deferrals: Callable[[], Mapping[str, int]]
              ) -> Callable[[], Iterable[Metric]]:
    """What to serve, given the answer of `status` and the deferrals so far by limit."""
    def collect() -> Iterable[Metric]:
        answer = status(time.monotonic())
        yield CounterMetricFamily("egressguard_milter_messages_accepted", "Messages that were accepted.",
                                  value=answer["accepted"])
        deferred = CounterMetricFamily("egressguard_milter_deferrals", "Times a client was told to come "
                                       "back, by limit.", labels=["limit"])
        for limit, count in sorted(deferrals().items()):
            deferred.add_metric([limit], count)
        yield deferred
        accounts = GaugeMetricFamily("egressguard_milter_accounts", "Accounts in memory, by kind.",
                                     labels=["kind"])
        for kind, count in answer["accounts"].items():
            accounts.add_metric([kind], count)
        yield accounts
        for name, (key, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=float(answer[key]))

    return collect
