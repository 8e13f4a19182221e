import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.relay.running import Relay, Site

pytest.register_assert_rewrite("tests.relay.limits_alike")  # it holds tests, which two files inherit


@pytest.fixture(scope="session")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    if os.geteuid() != 0:
        pytest.fail("these tests run a real Postfix in a network namespace: run them as root")
    relay = Relay(tmp_path_factory.mktemp("relay"))
    yield relay
    relay.close()


@pytest.fixture
def site(relay: Relay, tmp_path: Path) -> Iterator[Site]:
    site = Site(relay, tmp_path)
    yield site
    site.close()
