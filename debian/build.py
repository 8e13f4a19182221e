"""Builds both Debian packages for the Debian it runs on, the wheel and the sdist: script/package calls it.

What Debian has in a version that serves comes from Debian; the rest is installed from requirements/, by its
hashes, into a folder of the package's own. Same commit, same bytes: every time is SOURCE_DATE_EPOCH.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
RUNTIME = ROOT / "requirements" / "runtime.txt"

# Every distribution in requirements/runtime.txt stands in one of these. What is bundled is too old in Debian:
# pydantic is 1.10 and 2.10 there (and cannot refuse unknown keys while it checks strictly), click 8.1 and 8.2
# (whose parameter types are not generic), pyroute2 0.7 and 0.8, redis 4.3.
FROM_DEBIAN = {"rich": "python3-rich", "markdown-it-py": "", "mdurl": "", "pygments": "",
               "prometheus-client": "python3-prometheus-client"}
BUNDLED = {"pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection", "click",
           "pyroute2", "redis", "async-timeout"}
TO_BUILD = {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers", "win-inet-pton"}
UNREPEATABLE = ("RECORD", "direct_url.json", "INSTALLER", "REQUESTED")
COMPLETIONS = {"bash": "bash-completion/completions/{name}", "zsh": "zsh/vendor-completions/_{name}",
               "fish": "fish/vendor_completions.d/{name}.fish"}
SHORT = {"Apache 2": "Apache-2.0"}  # what older metadata says, by its short name in DEP-5
UNITS = "usr/lib/systemd/system/"
NETWORKS = ("networking", "systemd-networkd", "NetworkManager")  # Debian's ways to bring interfaces up
SAMPLE = "milter/egressguard-milter.toml"
MAINTAINER = "the egressguard project <egressguard@example.org>"


@dataclass(frozen=True)
class Package:
    """One binary package: its command, its units, and what it brings besides the Python code."""

    name: str
    summary: str
    text: str
    module: str
    depends: tuple[str, ...]
    files: dict[str, str]  # from the checkout (a folder as a whole) to the machine
    links: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


ROUTER = Package(
    "egressguard", "blocks and counts direct outgoing SMTP on a router",
    "Nobody behind the router talks SMTP to the outside, except the senders; whoever tries is\n"
    "counted, judged, and slowed down at the relay.", "egressguard.cli",
    ("nftables (>= 1.0.6)", "python3-nftables"),
    {"systemd/egressguard.service": UNITS, "systemd/egressguard-rules.service": UNITS,
     "systemd/egressguard-fallback.service": UNITS,
     "systemd/nftables.conf": f"{UNITS}nftables.service.d/egressguard.conf",
     "systemd/network.conf": "usr/lib/egressguard/",
     "systemd/load-rules": "usr/lib/egressguard/",
     "systemd/egressguard.sysusers": "usr/lib/sysusers.d/egressguard.conf",
     "systemd/egressguard.tmpfiles": "usr/lib/tmpfiles.d/egressguard.conf",
     "docs": "usr/share/doc/egressguard/", "rules/README.md": "usr/share/doc/egressguard/rules.md",
     "milter/README.md": "usr/share/doc/egressguard/milter.md",
     SAMPLE: "usr/share/doc/egressguard/examples/",
     "contrib/prometheus": "usr/share/egressguard/prometheus/"},
    {"usr/lib/egressguard/rules": "python/egressguard/rules",
     **{f"{UNITS}{unit}.service.d/egressguard.conf": "../../../egressguard/network.conf"
        for unit in NETWORKS}})
MILTER = Package(
    "egressguard-milter", "limits what each client may send through a mail relay",
    "A milter for Postfix and sendmail. Over a limit is always temporary, and limits shrink\n"
    "while a router suspects the client.", "egressguard_milter.cli", (),
    {"systemd/egressguard-milter.service": UNITS,
     "systemd/egressguard-milter.sysusers": "usr/lib/sysusers.d/egressguard-milter.conf",
     # The postinst makes the first policy of it. No conffile: people write the policy, and no upgrade asks.
     SAMPLE: "usr/share/egressguard-milter/",
     "milter/README.md": "usr/share/doc/egressguard-milter/",
     "docs": "usr/share/doc/egressguard-milter/manual/",
     "rules/README.md": "usr/share/doc/egressguard-milter/manual/rules.md",
     "contrib/prometheus": "usr/share/egressguard-milter/prometheus/"},
    without=("pyroute2", "rich"))
STATE = '\nstate = ""', '\nstate = "/var/lib/egressguard-milter/counts"'

LAUNCHER = """#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/{name}/python")
from {module} import main

sys.exit(main())
"""


def main(folder: Path) -> None:
    """Puts everything into `folder` and names it."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = wheel_and_sdist(folder)
    for package in (ROUTER, MILTER):
        with tempfile.TemporaryDirectory(prefix="package-") as scratch:
            tree = Path(scratch) / package.name
            stage(package, wheel, tree)
            print(build(package, tree, folder))  # noqa: T201


def wheel_and_sdist(folder: Path) -> Path:
    """Builds both; the wheel's path."""
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", scratch, cwd=ROOT)
        for path in sorted(Path(scratch).iterdir()):
            shutil.copyfile(path, folder / path.name)
            print(folder / path.name)  # noqa: T201
        return next(folder / path.name for path in Path(scratch).glob("*.whl"))


def stage(package: Package, wheel: Path, tree: Path) -> None:
    """The package's files as they will lie on the machine."""
    python = tree / "usr/lib" / package.name / "python"
    install(package, wheel, python)
    lay(package, tree)
    (tree / "usr/share/doc" / package.name / "copyright").write_text(copyright_text(package, python))
    for link, target in package.links.items():
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        (tree / link).symlink_to(target)
    launcher = tree / "usr/bin" / package.name
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER.format(name=package.name, module=package.module))
    launcher.chmod(0o755)
    manuals(package, tree)
    changelog = tree / "usr/share/doc" / package.name / "changelog.gz"
    changelog.write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), 9, mtime=0))
    if package is MILTER:
        sample = tree / "usr/share/egressguard-milter/egressguard-milter.toml"
        text = sample.read_text()
        if STATE[0] not in text:
            sys.exit("package: the milter's sample has no `state`")
        sample.write_text(text.replace(*STATE))  # /var/lib/egressguard is not the milter's


def lay(package: Package, tree: Path) -> None:
    """The package's own files; links between its documents lead to where the files lie now."""
    where = {source: tree / target for source, target in placed(package).items()}
    for source, target in where.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        if source.suffix == ".md":
            target.write_text(relinked(source, where))


def placed(package: Package) -> dict[Path, str]:
    """Each file of the checkout that it brings, and where to."""
    found = {}
    for source, target in package.files.items():
        path = ROOT / source
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in inside:
            name = str(each.relative_to(path)) if path.is_dir() else each.name
            found[each] = target + (name if target.endswith("/") else "")
    return found


def relinked(source: Path, where: dict[Path, Path]) -> str:
    """The document's text, with every relative link as it must be at the document's place in `where`."""
    def there(link: re.Match[str]) -> str:
        target = (source.parent / link[1]).resolve()
        if target not in where:
            sys.exit(f"package: {source.relative_to(ROOT)}: links to {link[1]}, which is not in the package")
        return f"]({os.path.relpath(where[target], where[source].parent)}{link[2]})"
    return re.sub(r"\]\((?!\w+:)([^)#\s]+)([^)\s]*)\)", there, source.read_text("utf-8"))


def copyright_text(package: Package, python: Path) -> str:
    """DEP-5: ours as pyproject.toml says, and what is bundled in the folder `python` as its authors say."""
    licence = project().get("license", "unstated\n pyproject.toml names no licence, so none is granted here.")
    stanzas = ["Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
               f"Upstream-Name: egressguard\nUpstream-Contact: {MAINTAINER}",
               f"Files: *\nCopyright: the egressguard project\nLicense: {licence}"]
    bundled = {each.name.lower().replace("_", "-"): each for each in distributions(path=[str(python)])}
    stanzas += [_bundled(package, bundled[name]) for name in sorted(bundled.keys() & BUNDLED)]
    return "\n\n".join(stanzas) + "\n"


def _bundled(package: Package, each: Distribution) -> str:
    name, said = each.name.replace("-", "_"), each.metadata
    texts = [each.read_text(f"licenses/{file}") or each.read_text(file) or ""
             for file in said.get_all("License-File", [])]
    holders = re.findall(r"^ *(Copyright (?:\(c\) )?.*\d{4}.*)$", "\n".join(texts), re.MULTILINE)
    holder = holders[0] if holders else said["Author-email"] or said["Maintainer-email"]
    licence = (said["License-Expression"] or SHORT[said["License"]]).replace(" OR ", " or ")
    folder = f"/usr/lib/{package.name}/python/{name}"
    return (f"Files: {folder.lstrip('/')}*\nCopyright: {holder}\nLicense: {licence}\n"
            f" The text lies beside the code, in {folder}-{each.version}.dist-info.")


def install(package: Package, wheel: Path, target: Path) -> None:
    """Our wheel and what is bundled, without what differs from run to run."""
    pins = "\n".join(pinned(BUNDLED - set(package.without)))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(pins)
        wanted.flush()
        pip("--require-hashes", "-r", wanted.name, target=target)
    pip(str(wheel), target=target)
    shutil.rmtree(target / "bin", ignore_errors=True)
    for name in UNREPEATABLE:
        for path in target.glob(f"*.dist-info/{name}"):
            path.unlink()


def pip(*what: str, target: Path) -> None:
    """Installs into a folder, compiling nothing: the machine does, for its own interpreter."""
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps",
        "--no-compile", "--only-binary=:all:", "--target", str(target), "--upgrade", *what)


def pinned(names: set[str]) -> Iterator[str]:
    """The lines of requirements/runtime.txt about `names`; whatever is in that file has a place above."""
    for stanza in re.findall(r"^\S.*(?:\n[ ]+.*)*", RUNTIME.read_text(), re.MULTILINE):
        name = re.split(r"[=\[ ]", stanza)[0].lower()
        if name not in FROM_DEBIAN.keys() | BUNDLED | TO_BUILD:
            sys.exit(f"package: {name} is new in requirements/: from Debian, or bundled? (debian/build.py)")
        if name in names:
            yield stanza


def manuals(package: Package, tree: Path) -> None:
    """Man pages and completions, made from the command line itself."""
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        run(sys.executable, "-m", "manpages", scratch, cwd=ROOT)
        for page in sorted(Path(scratch).glob(f"{package.name}.*")):
            target = tree / "usr/share/man" / f"man{page.suffix[1:]}" / f"{page.name}.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.compress(page.read_bytes(), 9, mtime=0))
    for shell, target in COMPLETIONS.items():
        path = tree / "usr/share" / target.format(name=package.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(run(str(Path(sys.executable).with_name(package.name)), "completion", shell))


def build(package: Package, tree: Path, folder: Path) -> Path:
    """The .deb: control files, one time and plain modes everywhere, dpkg-deb."""
    control = tree / "DEBIAN"
    control.mkdir()
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(ROOT / "debian" / f"{package.name}.{script}", control / script)
        (control / script).chmod(0o755)
    (control / "md5sums").write_text("".join(sums(tree)))
    version = f"{project_version()}-{os.environ.get('PACKAGE_REVISION', '1')}~deb{debian_version()}"
    (control / "control").write_text(control_text(package, tree, version))
    for path in [*tree.rglob("*"), tree]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    deb = folder / f"{package.name}_{version}_{architecture()}.deb"
    run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(deb))
    return deb


def sums(tree: Path) -> Iterator[str]:
    """What `dpkg --verify` compares with."""
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree)
        if path.is_file() and not path.is_symlink() and name.parts[0] != "DEBIAN":
            yield f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {name}\n"


def control_text(package: Package, tree: Path, version: str) -> str:
    """DEBIAN/control. What is compiled (pydantic-core) is for one Python and one architecture."""
    here, following = sys.version_info[:2], (sys.version_info[0], sys.version_info[1] + 1)
    python = f"python3 (>= {here[0]}.{here[1]}), python3 (<< {following[0]}.{following[1]})"
    wanted = f"\n{RUNTIME.read_text()}"
    both = [deb for name, deb in FROM_DEBIAN.items()
            if deb and name not in package.without and f"\n{name}==" in wanted]
    depends = ", ".join([python, *dict.fromkeys([*package.depends, *both]), "init-system-helpers",
                         "systemd (>= 252)", "passwd"])
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file()) // 1024 + 1
    body = "\n".join(f" {line}" for line in package.text.splitlines())
    return (f"Package: {package.name}\nVersion: {version}\nArchitecture: {architecture()}\n"
            f"Maintainer: {MAINTAINER}\nInstalled-Size: {size}\nDepends: {depends}\n"
            "Section: mail\nPriority: optional\n"
            f"Description: {package.summary}\n{body}\n")


def project_version() -> str:
    """The version in pyproject.toml."""
    return str(project()["version"])


def project() -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    said: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return said


def debian_version() -> str:
    """The number of the Debian that this is, such as 12."""
    release = Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_ID="?(\d+)', release, re.MULTILINE)
    if found is None:
        sys.exit("package: /etc/os-release names no VERSION_ID: build on Debian 12 or 13")
    return found[1]


def architecture() -> str:
    """What dpkg calls this kind of machine."""
    return subprocess.run(["dpkg", "--print-architecture"], text=True, capture_output=True,
                          check=True).stdout.strip()


def run(*argv: str, cwd: Path | None = None) -> str:
    """Runs a program; its output, or the end of everything with it."""
    done = subprocess.run(argv, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"package: {' '.join(argv[:6])}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
