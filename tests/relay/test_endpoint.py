"""Where the milter listens, and when an MTA on another machine is gone."""

import errno
import socket
from contextlib import closing

import pytest

from egressguard_milter import endpoint as endpoint_module
from egressguard_milter.endpoint import listen, parse_endpoint
from lab.namespaces import Namespace


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_mta_whose_machine_lost_its_power_is_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients' open connections would count against them for hours."""
    monkeypatch.setattr(endpoint_module, "KEEP_ALIVE_S", (1, 1, 2))
    other = address.replace("2.1", "2.2").replace("::1", "::2")
    with Namespace("relay") as relay, Namespace("mta") as mta:
        relay.link("eth0", mta, "eth0", "02:00:00:00:00:01")
        for namespace, own in ((relay, address), (mta, other)):
            namespace.ip(f"addr add {own}/{120 if ':' in own else 24} dev eth0 {'nodad' if ':' in own else ''}")
        with closing(relay.call(listen, parse_endpoint(f"inet:8892@{address}"))) as listener:
            listener.settimeout(30)
            with closing(mta.call(socket.create_connection, (address, 8892))):
                connection, _ = listener.accept()
                with closing(connection):
                    connection.settimeout(30)
                    mta.ip("link set eth0 down")
                    with pytest.raises(OSError, match="timed out") as caught:
                        connection.recv(1)
                    assert caught.value.errno == errno.ETIMEDOUT, "the test's own patience ended"
