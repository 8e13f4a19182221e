"""The commands in the documents: every `sh` block of every *.md file, command by command.

A block says on which host of the lab it runs when that is not the one its command belongs to:
```sh web2. A comment that ends in `exit code N` says how the command must end when that is not 0.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OURS = {".venv", ".lab", ".git", ".pytest_cache", "node_modules", "dist"}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+#\s.*")
EXIT_CODE = re.compile(r"#.*exit code (\d+)$")
LANGUAGES = ("sh", "toml", "yaml", "ini", "m4", "text")
# Programs that a document may name and this machine need not have; every one that it has counts as well.
ELSEWHERE = frozenset({"egressguard", "egressguard-milter", "apt", "exim", "firewall-cmd", "iptables-legacy-save", "mailq", "makemap",
                       "promtool", "redis-cli", "sudo", "vagrant", "valkey-cli"})
# Words of ours that are programs, too.
WORDS = frozenset({"as", "bridge", "factor", "init", "link", "watch"})
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
    found = []
    for folder, below, files in os.walk(ROOT):
        below[:] = [name for name in below if name not in NOT_OURS]
        found += [Path(folder) / name for name in files if name.endswith(".md")]
    return sorted(found)


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
    """Blocks that do not say what they are, and lines that begin with a program in those that are not `sh`."""
    found = []
    for info, block in BLOCK.findall(text):
        language = info.split(" ")[0]
        if language not in LANGUAGES:
            found.append(f"```{info}: say which of {', '.join(LANGUAGES)} it is")
        elif language != "sh":
            found += [line for line in block.splitlines() if is_command(line)]
    return found


def is_command(text: str) -> bool:
    """Whether it begins with the name of a program, and says what that should do; a lone name is just a name."""
    program, _, rest = text.removeprefix("$ ").partition(" ")
    if program in WORDS or not re.match(r"\S", rest) or re.match(r"=\s", rest):
        return False
    return program in ELSEWHERE or program.startswith(("script/", ".venv/bin/")) or shutil.which(program) is not None


def inline(text: str) -> list[str]:
    """Commands within a sentence: `egressguard hosts --json`, `nft list ruleset`."""
    prose = " ".join(BLOCK.sub("", text).split())
    return [quoted for quoted in re.findall(r"`([^`]+)`", prose) if is_command(quoted)]


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
