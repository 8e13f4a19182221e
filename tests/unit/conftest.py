"""What the tests without a kernel share."""

import pytest

from egressguard.core import detection


@pytest.fixture(autouse=True)
def _no_two_destinations_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host's destinations are bits of a few hundred, placed anew in every process: in some percent of all
    processes two of six share one, so that a verdict comes an attempt later. Tests count attempts.
    """
    monkeypatch.setattr(detection, "BITS", 1 << 20)
