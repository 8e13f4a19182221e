"""Other programs' policies as ours: what carries over, and each line that does not, by name and number."""

from collections.abc import Callable, Iterable
from pathlib import Path

from egressguard.core.errors import EgressguardError
from egressguard_milter import sendmail_access, ze_filter
from egressguard_milter.draft import Draft, Remark

SOURCES: dict[str, Callable[[Iterable[str]], Draft]] = {
    "ze-filter": ze_filter.read, "access": sendmail_access.read}
MAX_BYTES = 64 << 20


def import_file(path: Path, source: str) -> tuple[str, list[Remark]]:
    """The policy's text and what could not be carried over. Raises EgressguardError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EgressguardError(f"cannot import {path}: larger than {MAX_BYTES} bytes")
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise EgressguardError(f"cannot import {path}: {error.strerror}") from error
    draft = import_text(text, source)
    return draft.toml(f"{source} file {path.name}"), draft.remarks


def import_text(text: str, source: str) -> Draft:
    """What `text` says, as a draft of a policy."""
    return SOURCES[source](text.splitlines())
