"""A real sendmail with everything of its own, although Postfix is what is installed.

Its files come unpacked from Debian's packages (`script/bootstrap dev`), its configuration, queue and log
lie in one folder, and it sees that folder's hosts file instead of the machine's: nothing of the machine's
own configuration is read or written, and no name is ever looked up in the DNS.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lab.closing import Closing
from lab.namespaces import LabError, Namespace, wait_until
from lab.syslog import Syslog

ROOT = Path(__file__).resolve().parent.parent / ".lab" / "sendmail"
PROGRAMS = ROOT / "usr/libexec/sendmail"
MACROS = ROOT / "usr/share/sendmail/cf"
PORT = 25
START_S = 120.0
STOP_S = 5.0
# `first try at once, then from the queue`: the how-to's command line with a runner that tests can wait for.
COMMAND_LINE = ("-bd", "-q1s")

# What a site's sendmail.mc holds already; `mc` comes after it. Debian listens on 127.0.0.1 only.
# The map files of FEATUREs are sought in MAIL_SETTINGS_DIR, /etc/mail otherwise.
MC = """\
divert(0)dnl
OSTYPE(`linux')dnl
define(`MAIL_SETTINGS_DIR', `{folder}/mail/')dnl
define(`QUEUE_DIR', `{folder}/queue')dnl
define(`STATUS_FILE', `{folder}/statistics')dnl
define(`HELP_FILE', `{folder}/mail/helpfile')dnl
define(`ALIAS_FILE', `')dnl
define(`confPID_FILE', `{folder}/sendmail.pid')dnl
define(`confSERVICE_SWITCH_FILE', `{folder}/mail/service.switch')dnl
define(`confHOSTS_FILE', `{folder}/hosts')dnl
define(`confDOMAIN_NAME', `{hostname}')dnl
define(`confDEF_USER_ID', `mail:mail')dnl
define(`confDONT_BLAME_SENDMAIL', `MapInUnsafeDirPath')dnl
define(`confTO_IDENT', `0')dnl
define(`confREFUSE_LA', `0')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confDELAY_LA', `0')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
DAEMON_OPTIONS(`Name=MTA-v4, Family=inet, Addr=0.0.0.0, Port=25')dnl
DAEMON_OPTIONS(`Name=MTA-v6, Family=inet6, Addr=::, Port=25')dnl
{mc}
MAILER(`local')dnl
MAILER(`smtp')dnl
"""

# A mount and UTS namespace of its own: the hosts file, no DNS, a host name with a domain (without one
# sendmail sleeps for a minute), and a /dev whose log is ours.
ENTER = """\
set -e
mount --make-rprivate /
mount --bind "$0/hosts" /etc/hosts
mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf
mount --bind "$0/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o mode=755 dev "$0/dev"
for node in null zero random urandom; do
    : >"$0/dev/$node"
    mount --bind "/dev/$node" "$0/dev/$node"
done
ln -s "$0/log" "$0/dev/log"
mount --rbind "$0/dev" /dev
[ ! -d "$0/sasl" ] || mount --bind "$0/sasl" /usr/lib/sasl2
hostname "$1"
shift
exec "$@"
"""


class Sendmail(Closing):
    """A sendmail in a namespace, running from construction to close().

    `mc` are lines of sendmail.mc, `maps` the texts of the maps it names (`access`, `mailertable`),
    `names` the host names it knows. `arguments` is the daemon's command line, `sasl` a folder
    with logins. Raises LabError if it does not start.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        hostname: str = "relay.example",
        mc: str = "",
        maps: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        arguments: Sequence[str] = COMMAND_LINE,
        sasl: Path | None = None,
    ) -> None:
        if not (ROOT / "complete").exists():
            raise LabError(f"no sendmail in {ROOT}: run script/bootstrap dev")
        self.namespace, self.hostname, self._arguments = namespace, hostname, tuple(arguments)
        self.folder = Path(tempfile.mkdtemp(prefix="eg-sendmail-"))
        self.folder.chmod(0o755)
        self.config = self.folder / "sendmail.cf"
        self._syslog = Syslog(self.folder / "log")
        try:
            if sasl is not None:
                shutil.copytree(sasl, self.folder / "sasl")
            self._write(mc, maps or {}, names or {})
            self.start()
        except BaseException:
            self.close()
            raise

    def _write(self, mc: str, maps: Mapping[str, str], names: Mapping[str, str]) -> None:
        for name, mode in (("mail", 0o755), ("queue", 0o700), ("dev", 0o755)):
            (self.folder / name).mkdir(mode=mode)
        known = {"127.0.0.1": "localhost", "::1": "localhost", **names}
        hosts = [f"127.0.1.1 {self.hostname}", *(f"{address} {name}" for address, name in known.items())]
        texts = {
            "hosts": "\n".join(hosts) + "\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
            "resolv.conf": "",
            "mail/service.switch": "hosts files\naliases files\n",
            "sendmail.mc": MC.format(folder=self.folder, hostname=self.hostname, mc=mc),
        }
        for name, text in texts.items():
            (self.folder / name).write_text(text)
        macros: list[str | Path] = [f"-D_CF_DIR_={MACROS}/", MACROS / "m4/cf.m4", self.folder / "sendmail.mc"]
        self.config.write_text(self.namespace.run(["m4", *macros]).stdout)
        for name, text in maps.items():
            self.make_map(name, text)

    def make_map(self, name: str, text: str) -> None:
        """Writes /etc/mail/`name` and its database, as the administrator does after an edit."""
        path = self.folder / "mail" / name
        path.write_text(text)
        self.namespace.run([PROGRAMS / "makemap", "-C", self.config, "hash", path], stdin=text)

    def start(self) -> None:
        """Starts it and returns when port 25 is listened to in both families."""
        # Its IPv6 socket would take IPv4 as well, and then the IPv4 one cannot be had.
        self.namespace.sysctl({"net.ipv6.bindv6only": 1})
        try:
            self.run(*self._arguments)
            self.namespace.wait_until_listening(PORT, timeout_s=START_S)
        except LabError as error:
            raise LabError(f"sendmail did not start: {error}\n{self.log_text()}") from error

    def run(self, *arguments: str, stdin: str = "") -> str:
        """The output of `sendmail arguments…` with this configuration."""
        command: list[str | Path] = [PROGRAMS / "sendmail", "-C", self.config, *arguments]
        inside = ["unshare", "--mount", "--uts", "sh", "-c", ENTER, self.folder, self.hostname, *command]
        return self.namespace.run(inside, stdin=stdin).stdout

    def version(self) -> str:
        """Such as `8.17.1.9`."""
        return self.run("-d0.1", "-bv", "root").split()[1]

    def stop(self) -> None:
        """Stops the daemon and its runners; what is queued stays queued."""
        pids = [pid for pid in self._pids() if pid != os.getpid()]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            with suppress(LabError):
                wait_until(lambda: not self._pids(), "the end of sendmail", timeout_s=STOP_S)
                return

    def close(self) -> None:
        """Stops it and removes its folder."""
        self.stop()
        self._syslog.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def flush(self) -> None:
        """Tries to deliver everything queued now, whatever its age."""
        self.run("-q", "-OMinQueueAge=0")

    def queued(self) -> int:
        """How many messages are queued."""
        return len(list((self.folder / "queue").glob("qf*")))

    def log_text(self) -> str:
        """What it has written to syslog so far."""
        return self._syslog.text

    def wait_for_log(self, text: str, *, count: int = 1, timeout_s: float | None = None) -> None:
        """Returns once `text` stands in the log `count` times. Raises LabError with the log."""
        try:
            wait_until(
                lambda: self.log_text().count(text) >= count, f"{count} × {text!r}", timeout_s=timeout_s
            )
        except LabError as error:
            raise LabError(f"{self.namespace.label}: {error}\n{self.log_text()}") from error

    def _pids(self) -> list[int]:
        """Its processes: those that see our hosts file in place of the machine's."""
        found = []
        for path in Path("/proc").glob("[0-9]*/mounts"):
            with suppress(OSError):
                if f"{self.folder}/dev/null" in path.read_text():
                    found.append(int(path.parent.name))
        return found
