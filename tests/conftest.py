"""Options and fixtures of all tests."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import promises

# Machines are shared and slow at times: how fast an example is made says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# A run in the background of a shell begins with Ctrl-C ignored, and whatever it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROMISES = Path(__file__).parents[1] / "docs" / "promises.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the golden files anew")
    parser.addoption("--machine", metavar="DIST", help="also boot machines of this Debian (script/machine-test)")
    parser.addoption("--packages", metavar="FOLDER", help="with --machine: do not build, test the packages in its "
                     "folders r1 and r2 (PACKAGE_REVISION)")
    parser.addoption("--full", action="store_true", help="the full sizes of the promises, for hours not minutes")
    parser.addoption("--write-promises", action="store_true", help="write this run's figures into docs/promises.md")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Installing a Debian takes minutes and its mirrors: script/machine-test asks for it."""
    return True if collection_path.name == "machine" and not config.getoption("--machine") else None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Only a run in which everything held may say so."""
    if session.config.getoption("--write-promises") and exitstatus == 0:
        promises.write(PROMISES)


@pytest.fixture
def write_golden(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--write-golden"))


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail("this test makes network namespaces: run it as root (script/test does)")
