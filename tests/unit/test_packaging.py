"""What debian/build.py lays into the packages, without building them: documents whose links lead somewhere, licences."""

import importlib.util
import re
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMES = ("egressguard", "egressguard-milter")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        spec = importlib.util.spec_from_file_location("debian_build", ROOT / "debian" / "build.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(__import__("sys").modules, spec.name, module)  # dataclasses look it up
        spec.loader.exec_module(module)
        return module


def staged(build: ModuleType, name: str, tree: Path) -> Path:
    build.lay(next(each for each in (build.ROUTER, build.MILTER) if each.name == name), tree)
    return tree


def dead(tree: Path) -> set[str]:
    return {f"{path.relative_to(tree)}: {link}" for path in tree.rglob("*.md") for link in LINK.findall(path.read_text())
            if "://" not in link and not (path.parent / link.partition("#")[0]).resolve().exists()}


@pytest.mark.parametrize("name", NAMES)
def test_no_link_of_an_installed_document_is_dead(build: ModuleType, name: str, tmp_path: Path) -> None:
    tree = staged(build, name, tmp_path)
    assert dead(tree) == set()
    readme = next(path for path in tree.rglob("README.md") if path.parent.name == name)
    readme.write_text(readme.read_text() + "[gone](../milter/README.md)")
    assert len(dead(tree)) == 1
    for file in ("alerts.yml", "grafana-dashboard.json", "README.md"):
        assert (tree / "usr/share" / name / "prometheus" / file).exists()
    assert not list(tree.rglob("*.service/*")), "a file is no folder"


@pytest.mark.parametrize("name", NAMES)
def test_no_package_has_a_file_that_people_change(build: ModuleType, name: str, tmp_path: Path) -> None:
    """Else dpkg would ask about it at an upgrade: what lies in /etc is written by `init` and the postinst."""
    tree = staged(build, name, tmp_path)
    assert not (tree / "etc").exists()
    sample = tree / "usr/share" / name / f"{name}.toml"
    assert (name == "egressguard-milter") == sample.exists()


def test_both_readmes_are_beside_the_manual(build: ModuleType, tmp_path: Path) -> None:
    manual = staged(build, "egressguard", tmp_path) / "usr/share/doc/egressguard"
    assert "(rules.md)" in (manual / "README.md").read_text()
    assert "(milter.md)" in (manual / "README.md").read_text()
    assert (manual / "rules.md").read_text().startswith("# rules/")


def test_a_document_that_links_to_what_is_not_shipped_is_no_package(build: ModuleType, tmp_path: Path) -> None:
    source = ROOT / "docs/README.md"
    with pytest.raises(SystemExit, match=re.escape("docs/README.md: links to")):
        build.relinked(source, {source: tmp_path / "README.md"})


@pytest.mark.parametrize("name", NAMES)
def test_the_copyright_file_names_every_licence(build: ModuleType, name: str) -> None:
    package = next(each for each in (build.ROUTER, build.MILTER) if each.name == name)
    text = build.copyright_text(package, Path(sysconfig.get_path("purelib")))
    header, ours, *bundled = text.strip().split("\n\n")
    assert header.startswith("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n")
    assert ours.startswith("Files: *\n")
    assert f"License: {build.project().get('license', 'unstated')}" in ours
    assert {"pydantic", "pydantic_core", "click", "redis"} <= {re.findall(r"python/(\w+)\*", stanza)[0] for stanza in bundled}
    for stanza in (ours, *bundled):
        assert re.fullmatch(r"Files: \S+\nCopyright: \S.*\nLicense: \S.*\n( \S.*\n?)*", stanza), stanza
