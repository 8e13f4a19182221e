"""The few ways in which egressguard fails; each says what was attempted and who is at fault."""

from collections.abc import Sequence
from dataclasses import dataclass


class EgressguardError(Exception):
    """What the command line prints as one message and answers with a non-zero exit code."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a configuration: the key where it stands, and what would be right.

    It would not be one if something else stood at one of `needs` (`*`: any word of a key).
    """

    key: str
    text: str
    needs: tuple[str, ...] = ()

    def shown(self) -> dict[str, str]:
        """As `--json` shows it."""
        return {"key": self.key, "text": self.text}


class ConfigError(EgressguardError):
    """A configuration that cannot be used; carries every mistake found, not only the first."""

    def __init__(self, file: str, mistakes: Sequence[Mistake]) -> None:
        self.file = file
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{file}: {m.key}: {m.text}" if m.key else f"{file}: {m.text}"
                                   for m in self.mistakes))


class KernelError(EgressguardError):
    """The kernel refused, lacks something, or holds what egressguard must not touch."""


class ExchangeError(EgressguardError):
    """Verdicts or reports could not be left or fetched; enforcement does not depend on them."""


class ExchangeLateError(ExchangeError):
    """No answer in time; the connection still stands, and what was said may yet arrive. Ask again soon."""


class DatabaseError(EgressguardError):
    """History could not be read or written; enforcement does not depend on it."""
