"""A real Valkey (Debian 13) or Redis (Debian 12) server of one's own: never the machine's service.

It listens on the loopback of a namespace, or of this machine, with a configuration and a folder of its own.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from lab.closing import Closing
from lab.namespaces import LabError, Namespace, end, wait_until

PROGRAMS = ("valkey-server", "redis-server")
CHOSEN = "EGRESSGUARD_TEST_SERVER"  # environment: another release's server to test with, a path
PLAIN = """\
bind {address}
protected-mode no
port {port}
save ""
appendonly no
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-diskless-load on-empty-db
"""


class Server(Closing):
    """A running server at `address`, in `namespace` or on this machine. Raises LabError if it does not start.

    `config` replaces the plain configuration; then `command` needs it to let `default` in.
    """

    def __init__(self, *, address: str = "127.0.0.1", port: int = 0, namespace: Namespace | None = None,
                 config: str = "", more: str = "") -> None:
        self.address, self.namespace = address, namespace
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="eg-valkey-"))
        self._config = self.folder / "server.conf"
        self._config.write_text((config or PLAIN.format(address=address, port=self.port)) + more)
        self._process: subprocess.Popen[Any] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """For a configuration."""
        return f"valkey://{self.address}:{self.port}"

    def start(self) -> None:
        """Starts it; what it held before is gone, unless it was told to SAVE."""
        argv = [program(), str(self._config), "--dir", str(self.folder)]
        with (self.folder / "log").open("a") as log:
            self._process = (self.namespace.popen(argv, stdout=log, stderr=log) if self.namespace
                             else subprocess.Popen(argv, stdout=log, stderr=log))
        wait_until(self.listens, f"{argv[0]} on port {self.port}: {(self.folder / 'log').read_text()[-500:]}")

    def listens(self) -> bool:
        """Whether it accepts connections."""
        if self._process is None or self._process.poll() is not None:
            raise LabError(f"the server ended: {(self.folder / 'log').read_text()[-1000:]}")
        connect = self.namespace.call if self.namespace else lambda f: f()
        return bool(connect(lambda: _accepts(self.address, self.port)))

    def stop(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def command(self, *words: str | bytes | int) -> Any:
        """What the server answers to a command of an administrator."""
        def run() -> Any:
            client = Redis(host=self.address, port=self.port, socket_timeout=10, retry=Retry(NoBackoff(), 0))
            try:
                return client.execute_command(*words)
            finally:
                client.close()
        return self.namespace.call(run) if self.namespace else run()

    def replicate(self, primary: "Server") -> None:
        """Becomes a replica of `primary`; returns when it is one."""
        self.command("REPLICAOF", primary.address, primary.port)
        wait_until(lambda: b"master_link_status:up" in _raw(self, "replication"), "the replica's link")

    def cpu_s(self) -> float:
        """Processor seconds that it has used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        """Ends it and removes its folder."""
        if self._process is not None:
            end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)


def program() -> str:
    """The server that this release has, or the one that the environment names. Raises LabError."""
    chosen = os.environ.get(CHOSEN)
    for name in (chosen,) if chosen else PROGRAMS:
        if shutil.which(name):
            return name
    if chosen:
        raise LabError(f"{CHOSEN}={chosen}: no program is there")
    raise LabError(f"none of {', '.join(PROGRAMS)} is installed: script/bootstrap dev")


def free_port() -> int:
    """A port of this machine's loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def certificates(folder: Path, address: str) -> None:
    """An authority and a server's certificate for `address`, as docs/exchange.md makes them."""
    subject = ["-subj", "/CN=egressguard lab"]
    commands = [
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", "ca.key",
         "-out", "ca.crt"],
        ["req", "-newkey", "rsa:2048", "-nodes", *subject, "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
         "-days", "2", "-extfile", "server.ext", "-out", "server.crt"],
    ]
    folder.mkdir(exist_ok=True)
    (folder / "server.ext").write_text(f"subjectAltName = IP:{address}\n")
    for command in commands:
        done = subprocess.run(["openssl", *command], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"openssl {command[0]}: {done.stderr}")


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def _raw(server: Server, section: str) -> bytes:
    """INFO as text; redis-py would parse it."""
    try:
        info = server.command("INFO", section)
    except RedisError:
        time.sleep(0.05)
        return b""
    if isinstance(info, dict):
        return "\n".join(f"{k}:{v}" for k, v in info.items()).encode()
    return info if isinstance(info, bytes) else str(info).encode()
