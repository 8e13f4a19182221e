"""Long lines on a terminal: broken between words and indented; in a pipe they stay whole, for grep."""

import shutil
import sys
import textwrap


def folded(text: str) -> str:
    """`text` for standard output."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_folded(line, width) for line in text.splitlines())


def _folded(line: str, width: int) -> str:
    indent = " " * min(len(line) - len(line.lstrip()) + 9, width // 3)
    return textwrap.fill(line, width, subsequent_indent=indent, drop_whitespace=True, break_long_words=True,
                         break_on_hyphens=False, replace_whitespace=False) if len(line) > width else line
