"""Text as man(7) macros. Nothing that stands in a text can become a macro."""

import re
from collections.abc import Iterable


def escaped(text: str) -> str:
    """`text` as it is to appear: no backslash, dot, quote or hyphen in it means anything to roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    text = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def title(name: str, section: int, version: str) -> str:
    """The page's head."""
    return f'.TH "{escaped(name).upper()}" "{section}" "" "egressguard {version}" "egressguard"\n.nh\n.ad l\n'


def page(parts: Iterable[str]) -> str:
    """The whole page; a head begins its first paragraph itself."""
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", "".join(parts), flags=re.MULTILINE)


def heading(text: str) -> str:
    """A section's head."""
    return f'.SH "{_quoted(text)}"\n'


def subheading(text: str) -> str:
    """The head of a part of a section."""
    return f'.SS "{_quoted(text)}"\n'


def paragraph(text: str) -> str:
    """One paragraph; what is between backticks is bold."""
    return f".PP\n{inline(text)}\n"


def item(term: str, text: str) -> str:
    """An entry of a list: what it is about, and what there is to say."""
    return f".TP\n\\fB{escaped(term)}\\fR\n{inline(text) or chr(92) + '&'}\n"


def example(lines: Iterable[str]) -> str:
    """Lines as they stand."""
    body = "\n".join(f"\\&{escaped(line)}" for line in lines)
    return f".PP\n.RS 4\n.nf\n{body}\n.fi\n.RE\n"


def inline(text: str) -> str:
    """A sentence with `words` in bold."""
    parts = re.split(r"`([^`]+)`", re.sub(r"\s+", " ", text).strip())
    out = "".join(f"\\fB{escaped(part)}\\fR" if n % 2 else escaped(part) for n, part in enumerate(parts))
    return f"\\&{out}" if out.startswith(("'", ".")) else out


def _quoted(text: str) -> str:
    return escaped(text).replace('"', "\\(dq")
