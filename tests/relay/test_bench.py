"""What `script/bench relay` measures a milter with, at its smallest: a program that answers no more gives no figure."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.relay import programs
from bench.relay.direct import Load
from lab.namespaces import Namespace

PORT = 8890


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("bench") as made:
        yield made


@pytest.mark.parametrize("name", ["ours", "floor", "on_libmilter"])
@pytest.mark.parametrize("connections", [1, 100])
def test_each_milter_of_the_bench_takes_every_message(namespace: Namespace, tmp_path: Path, name: str, connections: int) -> None:
    socket = programs.tcp(PORT)
    started = {"ours": lambda: programs.ours(namespace, tmp_path, socket), "floor": lambda: programs.floor(namespace, socket),
               "on_libmilter": lambda: programs.on_libmilter(namespace, tmp_path, socket)}[name]()
    figures = Load(namespace, tmp_path).run(PORT, connections, 0.2)
    started.stop()
    assert figures["transactions"] > 0
