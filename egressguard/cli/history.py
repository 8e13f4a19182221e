"""History as an operator reads it, and as a machine does."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from egressguard.database import Entry


def history_json(entries: Iterable[Entry]) -> str:
    """A JSON array, oldest first; times as in `database.Entry`."""
    return json.dumps([asdict(entry) for entry in entries], indent=1)


def history_text(entries: Iterable[Entry]) -> str:
    """One line per entry, oldest first."""
    return "\n".join(map(_line, entries)) or "nothing has happened yet"


def _line(entry: Entry) -> str:
    when = entry.wall[:19].replace("T", " ")
    if entry.kind == "verdict":
        return f"{when}  {entry.host}  {entry.before} → {entry.after}  ({entry.why})"
    return f"{when}  {entry.kind}: {entry.why}"
