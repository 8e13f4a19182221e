"""Links between documents lead somewhere, and the manual's index knows every document."""

import re

import pytest

from tests.docs.reading import ROOT, documents

DOCUMENTS = {str(path.relative_to(ROOT)): path for path in documents()}
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_relative_link_leads_to_a_file(name: str) -> None:
    path = DOCUMENTS[name]
    targets = [link.partition("#")[0] for link in LINK.findall(path.read_text("utf-8")) if "://" not in link]
    assert [target for target in targets if target and not (path.parent / target).exists()] == []


def test_the_manual_names_every_document() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    missing = [name for name in DOCUMENTS if name.startswith("docs/") and name != "docs/README.md"
               and f"({name.removeprefix('docs/')})" not in index]
    assert missing == [], "say in docs/README.md what they are for"
