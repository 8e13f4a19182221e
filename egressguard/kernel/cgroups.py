"""Control groups (cgroup v2) as nftables names them: by their path, and by the number of their inode.

libnftables looks a path up under /sys/fs/cgroup, wherever version 2 is mounted below it; the kernel compares
numbers. A group that is made anew has another number.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
DEEPEST = 5  # the levels that rules/own_cgroup.nft looks at


def mounted() -> Path | None:
    """Where version 2 is mounted; None where nftables would not find it."""
    for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind == "cgroup2" and Path(place).is_relative_to(ROOT):
            return Path(place)
    return None


def existing(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the control groups that exist, as nftables takes them."""
    root = mounted()
    return tuple(str((root / name).relative_to(ROOT)) for name in names
                 if root is not None and (root / name.strip("/")).is_dir())


def numbers(names: Iterable[str]) -> tuple[int, ...]:
    """The numbers that groups, named as nftables takes them, have in this life of theirs."""
    return tuple(path.stat().st_ino for path in (ROOT / name for name in names) if path.is_dir())


def name_of(number: int) -> str:
    """The path of the group that has this number now; empty when it is gone."""
    root = mounted()
    return next((str(path.relative_to(ROOT)) for path in _groups(root, DEEPEST)
                 if path.stat().st_ino == number), "") if root is not None else ""


def _groups(folder: Path, levels: int) -> Iterator[Path]:
    if levels == 0:
        return
    with os.scandir(folder) as entries:
        below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in below:
        yield path
        yield from _groups(path, levels - 1)
