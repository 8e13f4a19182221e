"""Everything that lies on a machine's disk, so that a package can be held to what it leaves behind."""

import re
from collections.abc import Iterator

from lab.debian import Machine

# Path, and what can be told of it: kind, mode, owner, group, target of a link. Owners by name: a number is nobody.
LIST = r"find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o -printf '%p\t%y %m %u %g %l\0'"
SUMS = r"find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o -type f -print0 | xargs -0 sha256sum -z"

# What others write while a package comes and goes, with the reason. Nothing else may differ, and nothing that has
# our name, wherever it lies.
OTHERS = {
    r"/var/lib/dpkg/(status|status-old|available|available-old|lock.*|triggers/\S+|info)": "dpkg's records",
    r"/var/lib/apt/(extended_states|periodic/.*|lists/.*)": "apt's records",
    r"/var/cache/(apt|debconf|man)(/.*)?": "caches of apt, debconf and man-db",
    r"/var/lib/systemd/(timers|random-seed|timesync|catalog|linger)(/.*)?": "systemd's clocks, seed, catalogue",
    r"/var/log/(dpkg\.log|apt(/.*)?|journal(/.*)?|wtmp|btmp|lastlog)": "logs",
    r"/run/(systemd|udev|lock|log|user|utmp|initctl|dbus|mount)(/.*)?": "the running systemd's own state",
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-": "the copy of the last version but one that shadow keeps",
    r"/tmp(/systemd-private-.*)?|/var/tmp(/systemd-private-.*)?": "private folders of Debian's own services",
    r"/etc/ld\.so\.cache|/var/cache/ldconfig(/.*)?": "ldconfig's index",
}


def everything(machine: Machine) -> dict[str, str]:
    """Each path with what can be told of it, contents included."""
    found = dict(entry.split("\t", 1) for entry in _entries(machine, LIST))
    for entry in _entries(machine, SUMS):
        digest, path = entry.split("  ", 1)
        found[path] = f"{found.get(path, '')} {digest}"
    return found


def _entries(machine: Machine, command: str) -> Iterator[str]:
    # A file that goes while it is looked for is no error: the machine lives.
    done = machine.execute("sh", "-c", command)
    return (entry for entry in done.stdout.split("\0") if entry)


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What differs and should not: each path with what it was and what it is."""
    differs = {path: (before.get(path, ""), after.get(path, "")) for path in before.keys() | after.keys()
               if before.get(path) != after.get(path)}
    return {path: pair for path, pair in sorted(differs.items()) if "egressguard" in path or not _of_others(path)}


def _of_others(path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in OTHERS)
