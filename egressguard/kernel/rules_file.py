"""A file of rules/ as it is loaded: complete, of this version, with what the configuration says in its text.

Few things cannot be elements of a set: the bit of the packet mark, what all SMTP ports have in common, the
interfaces of the last line, the relay that connections are led to, and the listener's port.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from egressguard.core.errors import KernelError
from egressguard.core.policy import port_bits
from egressguard.core.settings import Settings
from egressguard.core.tables import LAST_LINE, ROUTER, Table
from egressguard.kernel import owner

DEFINED = re.compile(r"^redefine \w+ = .*\n", re.MULTILINE)
DEVICES = re.compile(r"(?<=hook egress devices = )\{[^}]*\}")
NAMED = re.compile(r"\$(\w+)")
HEAD = re.compile(r"^table \w+ egressguard \{\n", re.MULTILINE)
EVERYWHERE = "lo"  # exists in every network namespace
REDIRECT, OWN_CGROUP = "redirect.nft", "own_cgroup.nft"
ENDS = {REDIRECT: "redirect_v1", OWN_CGROUP: "own_cgroup_v1"}  # as a table's own file ends with its version


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The file of one table, what its defined names stand for, the interfaces whose way out it stands on, and
    the files of what is configured beside it. `flags` are the table's.
    """

    path: Path
    table: Table = ROUTER
    defined: Mapping[str, str] = field(default_factory=lambda: _always(Settings()))
    interfaces: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    flags: str = ""

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
        return self.text() == RulesFile(self.path, self.table).text()

    def text(self) -> str:
        """What is loaded. Raises KernelError if it cannot be read, is cut short, or is another version's."""
        return "".join(part.own_text() for part in self.parts())

    def parts(self) -> list["RulesFile"]:
        """The table's own file, and each of those beside it, in the order in which they are loaded."""
        own = replace(self, more=())
        return [own, *(replace(own, path=self.path.with_name(name)) for name in self.more)]

    def own_text(self) -> str:
        """The same of this file alone."""
        text = self._read()
        named = ", ".join(f'"{name}"' for name in self.interfaces)
        text = DEVICES.sub(f"{{ {named} }}", text) if named else text
        text = HEAD.sub(rf"\g<0>\tflags {self.flags}\n", text) if self.flags else text
        return "".join(map(self._line, DEFINED.sub("", text).splitlines(keepends=True)))

    def _line(self, line: str) -> str:
        """The line with its names' values; nothing when it is about a relay that there is none of."""
        names = NAMED.findall(line)
        if any(name not in self.defined for name in names):
            return ""
        return NAMED.sub(lambda found: self.defined[found[1]], line)

    def _read(self) -> str:
        try:
            text = self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise KernelError(f"rules {self}: cannot be read: {reason}") from error
        end = ENDS.get(self.path.name, self.table.version_chain)
        if f"chain {end} " not in text:
            raise KernelError(f"rules {self}: do not end with chain {end}: the file is cut short, or "
                              "belongs to another version of egressguard")
        return text


def rules_of(settings: Settings, main: Path, table: Table, existing: frozenset[str] = frozenset()
             ) -> RulesFile:
    """The table's file beside the `main` one, for `settings` and those of its interfaces that exist."""
    defined = {**_always(settings), "sinkhole": str(settings.sinkhole.port),
               **{f"relay{relay.version}": str(relay) for relay in settings.redirect.relays}}
    named = settings.last_line.interfaces if table is LAST_LINE else ()
    return RulesFile(main.with_name(table.file), table, defined, tuple(n for n in named if n in existing),
                     _more(settings) if table is ROUTER else (),
                     owner.FLAGS if settings.table_owner and not owner.why_not() else "")


def _always(settings: Settings) -> dict[str, str]:
    mask, bits = port_bits(settings)
    return {"permitted": f"{settings.permitted_mark:#010x}", "smtp_mask": f"{mask:#06x}",
            "smtp_bits": str(bits)}


def _more(settings: Settings) -> tuple[str, ...]:
    own = settings.own.guard and bool(settings.own.cgroups)
    return (*((REDIRECT,) if settings.redirects() else ()), *((OWN_CGROUP,) if own else ()))
