"""A real Postfix with everything of its own: configuration, queue, data and log, in one folder.

The machine's /etc/postfix is neither read nor written, and no name is ever looked up in the DNS.
"""

import grp
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lab.closing import Closing
from lab.namespaces import LabError, Namespace, wait_until

PORT = 25
START_S = 120.0
STOP_S = 5.0
OWNER = "postfix"
GROUP = "postdrop"

# What `postfix start` makes, and checks at length, before each start.
QUEUES = "active bounce corrupt defer deferred flush hold incoming private saved trace"

# service, type, private, unprivileged, chroot, wakeup, limit, program. No chroot: nothing would
# copy /etc into the queue folder. 3.7 and 3.10 both run with these.
SERVICES = """
smtp       inet        n - n -     -  smtpd
pickup     unix        n - n 60    1  pickup
cleanup    unix        n - n -     0  cleanup
qmgr       unix        n - n 300   1  qmgr
rewrite    unix        - - n -     -  trivial-rewrite
bounce     unix        - - n -     0  bounce
defer      unix        - - n -     0  bounce
trace      unix        - - n -     0  bounce
verify     unix        - - n -     1  verify
flush      unix        n - n 1000? 0  flush
proxymap   unix        - - n -     -  proxymap
proxywrite unix        - - n -     1  proxymap
smtp       unix        - - n -     -  smtp
relay      unix        - - n -     -  smtp
showq      unix        n - n -     -  showq
error      unix        - - n -     -  error
retry      unix        - - n -     -  error
discard    unix        - - n -     -  discard
local      unix        - n n -     -  local
anvil      unix        - - n -     1  anvil
scache     unix        - - n -     1  scache
postlog    unix-dgram  n - n -     1  postlogd
"""

PARAMETERS = {
    "compatibility_level": "3.6",
    "inet_interfaces": "all",
    "inet_protocols": "all",
    "mail_owner": OWNER,
    "mydestination": "",
    "local_recipient_maps": "",
    "alias_maps": "",
    "alias_database": "",
    "biff": "no",
    "smtp_dns_support_level": "disabled",
    "smtp_host_lookup": "native",
    "smtpd_peername_lookup": "no",
    "default_transport": "error:5.1.2 the lab has no route to this domain",
    "smtp_tls_security_level": "none",
    "smtpd_tls_security_level": "none",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    # Only the milter may limit: Postfix's own limit on parallel connections would hide it.
    "smtpd_client_connection_count_limit": "0",
    "queue_run_delay": "2s",
    "minimal_backoff_time": "2s",
    "maximal_backoff_time": "5s",
}

# A stalled filter costs a client 3 s with these, 30 s without.
MILTER = {
    "milter_default_action": "tempfail",
    "milter_connect_timeout": "2s",
    "milter_command_timeout": "3s",
    "milter_content_timeout": "5s",
}


class Postfix(Closing):
    """A mail relay in a namespace, running from construction to close().

    `networks` may relay (others are refused), `routes` names the server's address per recipient
    domain, `milter` is a port on 127.0.0.1 of the namespace, `settings` overrides main.cf. Without
    a `folder` it makes a temporary one and removes it; `services` are further lines of master.cf.
    Raises LabError if it does not start.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        hostname: str = "relay.example",
        networks: Iterable[str] = ("127.0.0.0/8", "[::1]/128"),
        routes: Mapping[str, str] | None = None,
        milter: int | None = None,
        settings: Mapping[str, str] | None = None,
        folder: Path | None = None,
        services: str = "",
    ) -> None:
        self.namespace = namespace
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="eg-postfix-"))
        self.config = self.folder / "etc"
        self.log = self.folder / "mail.log"
        parameters = {
            **PARAMETERS,
            "myhostname": hostname,
            "mynetworks": " ".join(networks),
            "transport_maps": inline(routes or {}),
            **(MILTER | {"smtpd_milters": f"inet:127.0.0.1:{milter}"} if milter else {}),
            **(settings or {}),
        }
        try:
            self._write(parameters, services)
            self.start()
        except BaseException:
            self.close()
            raise

    def _write(self, parameters: Mapping[str, str], services: str) -> None:
        _make_folders(self.folder)
        own = {
            "queue_directory": self.folder / "spool",
            "data_directory": self.folder / "data",
            "maillog_file": self.log,
            "maillog_file_prefixes": self.folder,
        }
        lines = [f"{key} = {value}\n" for key, value in {**own, **parameters}.items()]
        (self.config / "main.cf").write_text("".join(lines))
        (self.config / "master.cf").write_text(SERVICES + services)
        # Postfix lets a configuration file cool down: it sleeps when one is younger than 2 s.
        os.utime(self.config / "main.cf", (0, 0))

    def start(self) -> None:
        """Starts it and returns when port 25 is listened to in both families."""
        daemons = self.namespace.run(self._command("postconf", "-h", "daemon_directory"))
        complaints = self.folder / "start.log"
        # A file, no pipe: the daemons keep it open, and reading to its end would wait for them.
        with complaints.open("w") as output:
            master = self._command(f"{daemons.stdout.strip()}/master", "-w")
            code = self.namespace.popen(master, stdout=output, stderr=output).wait(START_S)
        try:
            if code != 0:
                raise LabError(f"Postfix did not start: {complaints.read_text()}")
            self.namespace.wait_until_listening(PORT, timeout_s=START_S)
        except LabError as error:
            raise LabError(f"{error}\n{self.log_text()}") from error

    def version(self) -> str:
        """Such as `3.7.11`."""
        return self.namespace.run(self._command("postconf", "-dh", "mail_version")).stdout.strip()

    def stop(self) -> None:
        """Stops it as `postfix stop` does; what is queued stays queued."""
        pid = self._master()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        with suppress(LabError):
            wait_until(lambda: self._master() is None, "the end of Postfix", timeout_s=STOP_S)
        # Its daemons share its process group; one that is in a delivery may outlive it.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """Stops it and removes the folder if it made it."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def flush(self) -> None:
        """Tries to deliver everything queued now."""
        self.namespace.run(self._command("postqueue", "-f"))

    def queued(self) -> int:
        """How many messages are queued."""
        return len(self.namespace.run(self._command("postqueue", "-j")).stdout.splitlines())

    def log_text(self) -> str:
        """The mail log so far; empty before the first line."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text: str, *, count: int = 1, timeout_s: float | None = None) -> None:
        """Returns once `text` stands in the log `count` times. Raises LabError with the log."""
        try:
            wait_until(
                lambda: self.log_text().count(text) >= count,
                f"{count} × {text!r} in the log of {self.namespace.label}",
                timeout_s=timeout_s,
            )
        except LabError as error:
            raise LabError(f"{error}\n{self.log_text()}") from error

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-c", str(self.config), *arguments]

    def _master(self) -> int | None:
        """The pid of the running master; a number alone may be another process's by now."""
        try:
            pid = int((self.folder / "spool/pid/master.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if str(self.config) in command.split("\0") else None


def inline(routes: Mapping[str, str]) -> str:
    """`domain → address` as a transport table inside main.cf; brackets suppress MX lookups."""
    if not routes:
        return ""
    entries = (f"{{ {domain} = smtp:[{address}] }}" for domain, address in routes.items())
    return f"inline:{{ {', '.join(entries)} }}"


def _make_folders(folder: Path) -> None:
    try:
        owner, group = pwd.getpwnam(OWNER).pw_uid, grp.getgrnam(GROUP).gr_gid
    except KeyError as error:
        raise LabError(f"{error}: install Postfix (script/bootstrap lab)") from None
    folder.mkdir(mode=0o755, exist_ok=True)
    folder.chmod(0o755)
    _check_reachable(folder)
    for name in ("etc", "spool", "spool/pid"):
        (folder / name).mkdir(mode=0o755, exist_ok=True)
    owned = {"data": 0o700, "spool/maildrop": 0o730, "spool/public": 0o710}
    owned |= {f"spool/{name}": 0o700 for name in QUEUES.split()}
    for name, mode in owned.items():
        (folder / name).mkdir(exist_ok=True)
        os.chown(folder / name, owner, group)
        (folder / name).chmod(mode)


def _check_reachable(folder: Path) -> None:
    """Postfix's unprivileged daemons must get to their folder; pytest's tmp_path is 0700."""
    for parent in folder.resolve().parents:
        if not parent.stat().st_mode & 0o001:
            raise LabError(f"{folder}: user {OWNER} cannot pass {parent}; omit the folder")
