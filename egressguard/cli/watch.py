"""`egressguard status --watch`: the status in place, drawn anew each second until Ctrl-C."""

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from egressguard.core.errors import EgressguardError

PERIOD_S = 1.0


def watch(picture: Callable[[Console], RenderableType], console: Console) -> None:
    """Draws `picture`, made for the console's present size, until the operator has seen enough.

    What fails meanwhile (a file that is just being written) is shown, and tried again.
    """
    if not console.is_terminal:
        raise EgressguardError("status --watch needs a terminal: elsewhere use `egressguard status --json`")
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_drawn(picture, console), refresh=True)
                time.sleep(PERIOD_S)
    except KeyboardInterrupt:
        return


def _drawn(picture: Callable[[Console], RenderableType], console: Console) -> RenderableType:
    try:
        return picture(console)
    except EgressguardError as error:
        return f"egressguard: {error}"
