"""Says on a terminal what is being waited for; on anything else it says nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import wrap_file


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows `what` with a moving sign on standard error while the body runs."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextmanager
def reading(path: Path) -> Iterator[TextIO]:
    """Opens a text file; shows on standard error how much of it has been read. Raises OSError."""
    console = Console(stderr=True, highlight=False)
    with (path.open("rb") as file,
          wrap_file(file, path.stat().st_size, description=f"reading {escape(path.name)}", console=console,
                    transient=True, disable=not console.is_terminal) as counted,
          TextIOWrapper(counted, encoding="utf-8", newline="") as text):
        yield text
