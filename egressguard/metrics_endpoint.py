"""Serves metrics over HTTP to Prometheus, in a thread that nobody waits for.

One caller at a time, each with a deadline, and values are put into words at most once a second: whoever asks,
however often, costs the daemon's own work less than a thousandth of its time.
"""

import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import HTTPServer
from pathlib import Path
from typing import Any

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from egressguard.core.metrics_place import Place, place_of

log = logging.getLogger(__name__)
READ_TIMEOUT_S, DEADLINE_S = 2.0, 5.0
FRESH_S = 1.0


class _Remembered(Collector):
    """What `collect` said, for a second."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect
        self._metrics: list[Metric] = []
        self._at_s = float("-inf")

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        if time.monotonic() - self._at_s >= FRESH_S:
            self._metrics, self._at_s = list(self._collect()), time.monotonic()
        return self._metrics


class _Server(HTTPServer):
    """A server whose caller cannot hold it for longer than the deadline."""

    def finish_request(self, request: Any, client_address: Any) -> None:
        def hang_up() -> None:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(DEADLINE_S, hang_up)
        timer.daemon = True
        timer.start()
        try:
            super().finish_request(request, client_address)
        finally:
            timer.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a caller of the metrics went away", exc_info=True)


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        path = Path(str(self.server_address))
        if path.is_socket() and not _answers(path):
            path.unlink()  # a daemon that was killed has left it
        socketserver.TCPServer.server_bind(self)
        path.chmod(0o660)
        self.server_name, self.server_port = str(path), 0


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def serve(where: str, collect: Callable[[], Iterable[Metric]]) -> str:
    """Begins to serve at `where` (core.metrics_place); why it cannot, or the empty string.

    A taken port costs the metrics and nothing else: no daemon ends for it.
    """
    place = place_of(where)
    if place is None:
        return ""
    registry = CollectorRegistry()
    registry.register(_Remembered(collect))
    handler = type("Handler", (MetricsHandler.factory(registry),), {"timeout": READ_TIMEOUT_S})
    try:
        server = _bound(place, handler)
    except OSError as error:
        log.error("no metrics at %s: %s", where, error.strerror or error)
        return f"no metrics at {where}: {error.strerror or error}"
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return ""


def _bound(place: Place, handler: Any) -> _Server:
    if place.path:
        before = os.umask(0o117)
        try:
            return _UnixServer(place.path, handler)  # type: ignore[arg-type]
        finally:
            os.umask(before)
    kind = _IPv6Server if ":" in place.host else _Server
    return kind((place.host, place.port), handler)
