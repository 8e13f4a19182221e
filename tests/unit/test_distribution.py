"""The wheel and the sdist: the same bytes from the same commit, wherever and whenever they are built; what is in them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCH = "1700000000"


def checkout(target: Path, *, mode: int, mtime_s: int) -> Path:
    """The files that git knows, with other rights and times than here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        source, copy = ROOT / name, target / name
        if name and source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod(mode | (0o111 if os.access(source, os.X_OK) else 0))
            os.utime(copy, (mtime_s, mtime_s))
    return target


def built(folder: Path) -> dict[str, Path]:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder / "dist"],
                   cwd=folder, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}, capture_output=True, check=True)
    return {path.suffix: path for path in (folder / "dist").iterdir()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    places = [(0o644, 1_600_000_000), (0o600, 1_650_000_000)]
    return [built(checkout(tmp_path_factory.mktemp("checkout"), mode=mode, mtime_s=mtime_s))
            for mode, mtime_s in places]


@pytest.mark.parametrize("kind", [".whl", ".gz"])
def test_two_checkouts_of_one_commit_make_the_same_bytes(two: list[dict[str, Path]], kind: str) -> None:
    hashes = {hashlib.sha256(each[kind].read_bytes()).hexdigest() for each in two}
    assert len(hashes) == 1


def test_the_wheel_brings_rules_and_both_commands(two: list[dict[str, Path]]) -> None:
    with zipfile.ZipFile(two[0][".whl"]) as wheel:
        names = wheel.namelist()
        assert "egressguard/rules/egressguard.nft" in names
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert {"egressguard", "egressguard-milter"} <= {
            line.split(" = ")[0] for line in wheel.read(entry).decode().splitlines()}
    assert not [name for name in names if name.startswith(("tests/", "lab/"))]


def test_the_sdist_brings_what_a_package_is_built_from(two: list[dict[str, Path]]) -> None:
    with tarfile.open(two[0][".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"systemd/load-rules", "debian/build.py", "script/package", "requirements/runtime.txt"} <= names


@pytest.mark.parametrize(("built", "chosen"), [
    (["egressguard_0.1.0-1~deb11_{arch}.deb", "egressguard_0.1.0-1~deb{here}_{arch}.deb", "egressguard_0.1.0-1~deb99_{arch}.deb"],
     "egressguard_0.1.0-1~deb{here}_{arch}.deb"),
    (["egressguard_0.9.0-1~deb{here}_{arch}.deb", "egressguard_0.10.0-1~deb{here}_{arch}.deb"],
     "egressguard_0.10.0-1~deb{here}_{arch}.deb"),
    (["egressguard_0.1.0-1~deb99_{arch}.deb", "egressguard_0.1.0-1~deb{here}_other.deb",
      "egressguard-milter_0.1.0-1~deb{here}_{arch}.deb"], ""),
    ([], ""),
])
def test_a_labs_machine_takes_the_package_of_its_own_debian(tmp_path: Path, built: list[str], chosen: str) -> None:
    here, arch = (subprocess.run(["sh", "-c", command], text=True, capture_output=True, check=True).stdout.strip()
                  for command in (". /etc/os-release; echo $VERSION_ID", "dpkg --print-architecture"))
    for name in ["egressguard.txt", *(each.format(here=here, arch=arch) for each in built)]:
        (tmp_path / "dist").mkdir(exist_ok=True)
        (tmp_path / "dist" / name).touch()
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "bootstrap").write_text("#!/bin/sh\necho checkout\n")
    (tmp_path / "script" / "bootstrap").chmod(0o755)
    found = re.search(r"^ours\(\) \{\n.*?^\}\n", (ROOT / "lab/provision.sh").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    done = subprocess.run(["sh", "-euc", f'debian() {{ echo "${{1##*/}}"; }}\n{found[0]}\nours egressguard'], cwd=tmp_path,
                          text=True, capture_output=True, check=True)
    assert done.stdout.strip() == (chosen.format(here=here, arch=arch) or "checkout")
