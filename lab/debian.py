"""A Debian with real systemd as PID 1, booted in namespaces of its own on a disk that outlives a boot.

Its disk is an overlay over a debootstrap of the distribution, made once into .lab/debian/; its network is a
namespace of the lab, so the lab's wires and sniffers reach it. It shares the kernel with its host: what of
/proc and /sys is not its own is read-only. Needs root, debootstrap and cgroup v2; slirp4netns for `internet`.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.closing import Closing
from lab.namespaces import LabError, Namespace, wait_until

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = PROJECT / ".lab" / "debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BOOT_S = 120.0

# Runs in the new namespaces, becomes the machine's PID 1.
ENTER = """
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"
cd "$DISK/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -o remount,bind,rw proc/sys/net
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -o remount,bind,ro sys
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/net
for node in null zero full random urandom tty net/tun; do cp -a /dev/$node dev/$node; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mkdir -p old
pivot_root . old
cd /
umount -l /old
hostname "$NAME"
exec env -i container=lab PATH="$SEARCH" /sbin/init
"""


def image(distribution: str) -> Path:
    """The root folder of a freshly installed Debian, such as `bookworm`; made if it is not there."""
    folder = IMAGES / distribution
    if not folder.is_dir():
        IMAGES.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f"{distribution}.", dir=IMAGES))
        try:
            _debootstrap(distribution, new)
            new.rename(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return folder


def _debootstrap(distribution: str, folder: Path) -> None:
    sources = Path("/etc/apt/sources.list.d/debian.sources").read_text()
    found = re.search(r"^URIs: (\S+)", sources, re.MULTILINE)
    here = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if found is None or here is None:
        raise LabError("/etc/apt/sources.list.d/debian.sources names no mirror")
    _run(["debootstrap", "--include=dbus,ca-certificates,libpam-systemd,libnss-systemd",
          f"--keyring={KEYRING}", distribution, folder, found[1]])
    # The mirror, certificates and settings of this network are the host's own.
    (folder / "etc/apt/sources.list").unlink(missing_ok=True)
    (folder / "etc/apt/sources.list.d/debian.sources").write_text(
        re.sub(rf"\b{here[1]}\b", distribution, sources))
    for pattern in ("etc/apt/apt.conf.d/99*", "usr/local/share/ca-certificates/*.crt", "etc/pip.conf"):
        for path in Path("/").glob(pattern):
            shutil.copyfile(path, folder / path.relative_to("/"))
    _run(["chroot", folder, "update-ca-certificates"])
    for path in (folder / "var/cache/apt/archives").glob("*.deb"):
        path.unlink()


class Disk(Closing):
    """What a machine writes, over `layers` (the uppermost first); it outlives the machine's boots."""

    def __init__(self, *layers: Path) -> None:
        self.layers = layers
        self.folder = Path(tempfile.mkdtemp(prefix="machine.", dir="/var/tmp"))
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(mode=0o755)
        self.folder.chmod(0o755)

    @property
    def written(self) -> Path:
        """What differs from the layers below; a layer itself, once the machine is off."""
        return self.folder / "upper"

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Puts a file on the disk of a machine that is off."""
        target = self.written / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def close(self) -> None:
        """Throws it away."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Machine(Closing):
    """One boot of `disk` in the network `namespace`; close() pulls the plug."""

    def __init__(self, disk: Disk, namespace: Namespace, name: str = "router") -> None:
        self.namespace = namespace
        self._cgroup = _cgroup()
        environment = {**os.environ, "LOWER": ":".join(map(str, disk.layers)), "DISK": str(disk.folder),
                       "NAME": name, "SEARCH": PATH}
        own = f"echo $$ >{self._cgroup}/cgroup.procs; exec \"$@\""
        self._shell = namespace.popen(
            ["sh", "-c", own, "sh", "unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork",
             "--kill-child", "sh", "-ec", ENTER],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True)
        self._init = 0

    def wait_for_systemd(self) -> None:
        """Returns once PID 1 answers. Raises LabError with why it does not."""
        wait_until(self._answers, "systemd as PID 1", timeout_s=BOOT_S)

    def wait_until_booted(self) -> str:
        """Returns once the boot is over, with what systemd says about it: running, degraded."""
        self.wait_for_systemd()
        return self.execute("systemctl", "is-system-running", "--wait", timeout_s=BOOT_S).stdout.strip()

    def _answers(self) -> bool:
        if self._shell.poll() is not None:
            why = self._shell.stderr.read() if self._shell.stderr else ""
            raise LabError(f"the machine did not boot: {why}")
        children = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text().split()
        if not children:
            return False
        self._init = int(children[0])
        with suppress(OSError):
            return Path(f"/proc/{self._init}/root/run/systemd/private").is_socket()
        return False

    def execute(self, *argv: str, timeout_s: float = 300.0,
                **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in the machine as root, to its end."""
        words = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **environment}
        inside = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w",
                  "env", "-i", *(f"{name}={value}" for name, value in words.items()), *argv]
        return subprocess.run(inside, text=True, capture_output=True, check=False, timeout=timeout_s,
                              stdin=subprocess.DEVNULL)

    def run(self, *argv: str, timeout_s: float = 300.0, **environment: str) -> str:
        """The same, which must succeed; its output."""
        done = self.execute(*argv, timeout_s=timeout_s, **environment)
        if done.returncode != 0:
            raise LabError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def copy_in(self, source: Path, target: str) -> None:
        """Copies a file or folder from the host into the machine."""
        inside = ["nsenter", "-t", str(self._init), "-m", "-r", "tar", "-C", target, "-xf", "-"]
        with subprocess.Popen(["tar", "-C", source.parent, "-cf", "-", source.name],
                              stdout=subprocess.PIPE) as packed:
            subprocess.run(inside, stdin=packed.stdout, check=True)

    def power_off(self) -> None:
        """Shuts the machine down in order, as an operator would."""
        os.kill(self._init, signal.SIGRTMIN + 4)
        self._shell.wait(BOOT_S)
        self.close()

    @contextmanager
    def internet(self) -> Iterator[None]:
        """A way to package mirrors for a while, beside whatever network it has, by user-mode NAT."""
        slirp = subprocess.Popen(
            ["slirp4netns", "--mtu=1500", "--disable-host-loopback", str(self._init), "tap0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: "tap0" in self.namespace.run(["ip", "-o", "link"]).stdout, "slirp4netns")
            self.namespace.ip("link set tap0 up", "address add 10.0.2.100/24 dev tap0",
                              "route add default via 10.0.2.2 dev tap0 metric 1")
            self.run("sh", "-c", "echo nameserver 10.0.2.3 >/etc/resolv.conf")
            yield
        finally:
            slirp.terminate()
            slirp.wait()

    def close(self) -> None:
        """Pulls the plug: everything in it is killed at once."""
        if self._shell.poll() is None:
            self._shell.kill()
        self._shell.wait()
        if self._shell.stderr is not None:
            self._shell.stderr.close()
        _remove_cgroup(self._cgroup)


def _cgroup() -> Path:
    """A cgroup v2 of its own, so that the machine's systemd finds a tree that is empty and its alone."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(tempfile.mkdtemp(prefix="machine-", dir=where))
    raise LabError("cgroup v2 is not mounted: systemd as PID 1 needs it")


def _remove_cgroup(cgroup: Path) -> None:
    deadline = time.monotonic() + 10
    while cgroup.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        time.sleep(0.02)


def _run(argv: Iterable[Any]) -> None:
    done = subprocess.run(list(map(str, argv)), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(map(str, argv))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
