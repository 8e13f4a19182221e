"""The part of a relay's policy that egressguard writes: between two marks, the rest is the owner's."""

import os
import tempfile
from pathlib import Path

from egressguard.core.errors import EgressguardError

MARKS = "# egressguard tune: from here", "# egressguard tune: to here"


def replaced(text: str, rules: str) -> str:
    """`text` with `rules` between the marks, which are put at its end when there are none.

    Raises EgressguardError when only one of them is there, or they are in the wrong order.
    """
    first, last = text.find(MARKS[0]), text.find(MARKS[1])
    if (first < 0) != (last < 0) or last < first:
        raise EgressguardError(f"the marks {MARKS[0]!r} and {MARKS[1]!r} are not both there, in this order: "
                               "remove what is left of them")
    if first < 0:
        if not rules:
            return text
        return f"{text.rstrip()}\n\n{MARKS[0]}\n{rules}{MARKS[1]}\n"
    return f"{text[:first]}{MARKS[0]}\n{rules}{text[last:]}"


def write(path: Path, text: str) -> None:
    """Puts `text` in place of the file, whole or not at all, with the file's rights."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            before = path.stat()
            os.chmod(name, before.st_mode & 0o7777)  # noqa: PTH101
            os.chown(name, before.st_uid, before.st_gid)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EgressguardError(f"{path}: cannot be written: {error.strerror or error}") from error
