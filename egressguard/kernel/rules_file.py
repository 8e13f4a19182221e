"""A file of rules/ as it is loaded: complete, of this version, with what the configuration says in its text.

Two things cannot be elements of a set: the bit of the packet mark, and the interfaces of the last line.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from egressguard.core.errors import KernelError
from egressguard.core.path_settings import PERMITTED_MARK
from egressguard.core.tables import ROUTER, Table

DEFINED = re.compile(r"^redefine permitted = .*\n", re.MULTILINE)
DEVICES = re.compile(r"(?<=hook egress devices = )\{[^}]*\}")
EVERYWHERE = "lo"  # exists in every network namespace


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The file of one table, the configured bit, and the interfaces whose way out it stands on."""

    path: Path
    table: Table = ROUTER
    permitted: int = PERMITTED_MARK
    interfaces: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def anywhere(self) -> "RulesFile":
        """The same for a network namespace that has no interface but the loopback."""
        return replace(self, interfaces=(EVERYWHERE,))

    def as_written(self) -> bool:
        """Whether the file says all by itself."""
        return self.permitted == PERMITTED_MARK and not self.interfaces

    def text(self) -> str:
        """What is loaded. Raises KernelError if it cannot be read, is cut short, or is another version's."""
        text = DEFINED.sub("", self._read()).replace("$permitted", f"{self.permitted:#010x}")
        named = ", ".join(f'"{name}"' for name in self.interfaces)
        return DEVICES.sub(f"{{ {named} }}", text)

    def _read(self) -> str:
        try:
            text = self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise KernelError(f"rules {self}: cannot be read: {reason}") from error
        if f"chain {self.table.version_chain} " not in text:
            raise KernelError(f"rules {self}: do not end with chain {self.table.version_chain}: the file is "
                              "cut short, or belongs to another version of egressguard")
        return text
