"""The commands in the documents: every `sh` block of every *.md file, command by command.

A block says on which host of the lab it runs when that is not the one its command belongs to:
```sh web2. A comment that ends in `exit code N` says how the command must end when that is not 0.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OURS = {".venv", ".lab", ".git", ".pytest_cache", "node_modules", "dist"}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+#\s.*")
EXIT_CODE = re.compile(r"#.*exit code (\d+)$")
HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")


@dataclass(frozen=True)
class Command:
    """One command of a document; `host` is empty when the block names none."""

    document: str
    text: str
    host: str = ""
    exit_code: int = 0


def documents() -> list[Path]:
    """Every document of the project."""
    return sorted(p for p in ROOT.rglob("*.md") if not NOT_OURS & set(p.relative_to(ROOT).parts))


def commands(document: str, text: str) -> Iterator[Command]:
    """The commands of a document's text, in its order."""
    for info, block in BLOCK.findall(text):
        language, _, host = info.partition(" ")
        if language == "sh":
            for line in _joined(block):
                found = EXIT_CODE.search(line)
                yield Command(document, COMMENT.sub("", line) if "<<" not in line else line, host.strip(),
                              int(found[1]) if found else 0)


def unmarked(text: str) -> list[str]:
    """Lines that look like our commands in blocks that are not marked as `sh`."""
    return [line for info, block in BLOCK.findall(text) if info.split(" ")[0] not in ("sh", "console")
            for line in block.splitlines() if re.match(r"(\.venv/bin/)?egressguard(-milter)? [a-z]", line)]


def inline(text: str) -> list[str]:
    """Commands of ours within a sentence: `egressguard hosts --json`."""
    prose = BLOCK.sub("", text)
    return re.findall(r"`(egressguard(?:-milter)? [a-z-]+(?: [^`]*)?)`", prose)


def _joined(block: str) -> Iterator[str]:
    """Lines, with continuations and here-documents as one."""
    lines = iter(block.splitlines())
    for line in lines:
        while line.endswith("\\"):
            line = line[:-1].rstrip() + " " + next(lines).strip()
        if here := HEREDOC.search(line):
            for more in lines:
                line += f"\n{more}"
                if more == here[1]:
                    break
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()
