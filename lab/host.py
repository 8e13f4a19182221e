"""Where something of the lab happens: a namespace, or the machine that this runs on."""

import socket
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Host(Protocol):
    """Where something can be called: a `Namespace`, or `Here`."""

    label: str

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns when it runs on this host."""


class Here:
    """The machine that this runs on."""

    label = socket.gethostname()

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns."""
        return function(*args, **kwargs)
