"""What root's commands leave behind belongs to the daemon's user, or the daemon could not use it."""

import os
from pathlib import Path


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Gives an open file to whoever `folder` belongs to; only root can, and only root has to."""
    if os.geteuid() == 0:
        there = folder.stat()
        os.fchown(descriptor, there.st_uid, there.st_gid)


def make_beside(path: Path, mode: int = 0o660) -> None:
    """Makes the file, if it does not exist, as its folder's owner would. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        if os.fstat(descriptor).st_size == 0 and os.geteuid() == 0:
            give_to_owner_of(path.parent, descriptor)
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
