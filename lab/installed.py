"""A host with files of its own, on which egressguard looks as if it were installed.

/etc, /root, /run, /usr and /var are overlays that nobody else sees and that end with the host; the rest is
the machine's. So documented commands, default paths and provisioning run as they stand.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lab.closing import Closing
from lab.namespaces import LabError, Namespace, end, wait_until

STATE = "/var/lib/egressguard"
ROOT = Path(__file__).resolve().parent.parent
# Stand-ins first: `systemctl` runs the commands of the real units, since a namespace has no systemd.
PATH = f"{ROOT}/lab/stand_ins:{ROOT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Upper layers lie on a tmpfs: where / is an overlay itself, it can only be a lower one.
ENTER = """\
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 own "$0"
for folder in etc root run usr var; do
    mkdir "$0/$folder" "$0/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$0/$folder,workdir=$0/$folder.work" own "/$folder"
done
mkdir -p /etc/egressguard /etc/bash_completion.d /run/egressguard /var/lib/egressguard-milter \\
    /var/lib/egressguard/exchange
mount --bind "$1" /var/lib/egressguard/exchange
mkdir -p /usr/lib/egressguard
ln -sfn "$PWD/rules" /usr/lib/egressguard/rules
ln -sf "$PWD/systemd/load-rules" /usr/lib/egressguard/load-rules
mkdir -p /usr/share/egressguard
ln -sfn "$PWD/contrib/prometheus" /usr/share/egressguard/prometheus
hostname "$2"
# No name is ever looked up in the DNS, which would be asked for many seconds.
printf '127.0.0.1 localhost\n127.0.1.1 %s.example %s\n' "$2" "$2" >/etc/hosts
printf 'passwd: files\ngroup: files\nhosts: files\n' >/etc/nsswitch.conf
: >/etc/resolv.conf
: >"$0/ready"
exec sleep infinity
"""


class Installed(Closing):
    """A namespace with files of its own, from construction to close().

    `exchange` is the folder in which routers and relays of one machine leave messages for each other.
    """

    def __init__(self, namespace: Namespace, folder: Path, exchange: Path) -> None:
        self.namespace = namespace
        own = folder / f"own-{namespace.label}"
        own.mkdir()
        self._holder = namespace.popen(["unshare", "--mount", "--uts", "sh", "-c", ENTER, own, exchange,
                                        namespace.label], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        inside = Path(f"/proc/{self._holder.pid}/root{own}/ready")
        wait_until(lambda: inside.exists() or self._holder.poll() is not None, f"files for {namespace.label}")
        if self._holder.poll() is not None:
            raise LabError(f"{namespace.label}: no files of its own: {self._holder.communicate()[1]}")

    def path(self, inside: str) -> Path:
        """Where a file of this host is, seen from the machine."""
        return Path(f"/proc/{self._holder.pid}/root{inside}")

    def shell(self, command: str, *, environment: Mapping[str, str] | None = None,
              timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """What /bin/sh makes of `command` on this host, in the checkout's folder."""
        return subprocess.run(self._argv(["sh", "-c", command]), cwd=ROOT, text=True, capture_output=True,
                              check=False, timeout=timeout_s, env=_environment(environment))

    def close(self) -> None:
        """Forgets the files; the namespace ends with its world."""
        end(self._holder)

    def _argv(self, argv: list[str]) -> list[str]:
        pid = self._holder.pid
        return ["nsenter", f"--net={self.namespace.path}", "nsenter", f"--mount=/proc/{pid}/ns/mnt",
                f"--uts=/proc/{pid}/ns/uts", f"--wd={ROOT}", "--", *argv]


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PATH": PATH, "COLUMNS": "80", **(more or {})}
