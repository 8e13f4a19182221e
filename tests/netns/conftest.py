"""The lab's world and egressguard in it, made anew for every test: a tenth of a second, and no test sees
what another one left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.deployment import Deployment
from lab.network import World


@pytest.fixture
def fresh_world(root: None) -> Iterator[World]:
    with World() as built:
        yield built


@pytest.fixture
def site(fresh_world: World, tmp_path: Path) -> Deployment:
    """Configured, not started."""
    return Deployment(fresh_world, tmp_path)
