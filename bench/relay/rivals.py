"""Debian's other limiters, unpacked and laid over /usr and /etc for their own eyes only.

Nothing of them is installed. What cannot be had or does not start is named with its reason, never guessed.
"""

import os
import pwd
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.relay import through_postfix
from bench.relay.programs import started, tcp
from lab.namespaces import LabError, Namespace

ROOT = Path(__file__).resolve().parents[2] / ".lab" / "rivals"
PACKAGES = ("policyd-rate-limit", "postfwd", "rspamd", "redis-server")
NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)  # an upgrade has its old version in brackets first
INSIDE = """\
mount --make-rprivate /
mount -t overlay overlay -o lowerdir="$0/usr:/usr" /usr
mount -t overlay overlay -o lowerdir="$0/etc:/etc" /etc
exec "$@"
"""
POLICYD_PORT, POSTFWD_PORT, REDIS_PORT = 10031, 10040, 6379

POLICYD = """\
debug: False
user: "{user}"
group: "{group}"
pidfile: "{folder}/policyd.pid"
backend: 0
sqlite_config:
    database: "{folder}/policyd.sqlite3"
SOCKET: ["127.0.0.1", {port}]
limits:
    - [1000000, 600]
limit_by_sasl: False
limit_by_sender: False
limit_by_ip: True
limited_networks: ["0.0.0.0/0"]
success_action: "dunno"
fail_action: "defer_if_permit over the limit"
db_error_action: "dunno"
report: False
delay_to_close: 300
"""
POSTFWD_RULE = "id=R1; action=rate(client_address/1000000/600/451 4.3.2 over the limit)"
RSPAMD = """\
options {{ pidfile = "{folder}/rspamd.pid"; tempdir = "{folder}"; dns {{ nameserver = ["127.0.0.1"]; }} }}
logging {{ type = "file"; filename = "{folder}/rspamd.log"; level = "error"; }}
worker "rspamd_proxy" {{
    bind_socket = "{path} mode=0666"; milter = yes; count = 1;
    upstream "local" {{ default = yes; self_scan = yes; }}
}}
modules {{ path = "/usr/share/rspamd/plugins/ratelimit.lua"; }}
redis {{ servers = "127.0.0.1:{redis}"; }}
ratelimit {{
    rates {{ client {{ selector = "ip"; bucket {{ burst = 1000000; rate = "1000000 / 10min"; }} }} }}
}}
"""


RATELIMIT = """\
rates {{ client {{ selector = "ip"; bucket {{ burst = 1000000; rate = "1000000 / 10min"; }} }} }}
"""
# Debian's own configuration with its modules, but for those that ask the network: here they could only wait.
LOCAL = {
    "redis.conf": 'servers = "127.0.0.1:{redis}";\n',
    "ratelimit.conf": RATELIMIT,
    "worker-proxy.inc": 'bind_socket = "{path} mode=0666";\n',
    "options.inc": 'dns {{ nameserver = ["127.0.0.1"]; }}\n',
    **{f"{module}.conf": "enabled = false;\n" for module in (
        "arc", "asn", "dkim", "dkim_signing", "dmarc", "fuzzy_check", "mx_check", "neural", "phishing",
        "rbl", "spf", "surbl")},
}


def start(namespace: Namespace, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The smtpd parameter of each that runs, and of each that does not, why."""
    names = ("policyd-rate-limit", "postfwd", "rspamd, ratelimit only", "rspamd, as packaged")
    try:
        unpack()
    except (OSError, LabError) as error:
        return {}, dict.fromkeys(names, str(error))
    found, absent = {}, {}
    starters: tuple[Callable[[Namespace, Path], str], ...] = (_policyd, _postfwd, _rspamd, _packaged_rspamd)
    for name, starter in zip(names, starters, strict=True):
        try:
            found[name] = starter(namespace, folder)
        except LabError as error:
            absent[name] = str(error)
    return found, absent


def unpack() -> None:
    """Fetches what of PACKAGES and their dependencies this machine lacks. Raises LabError."""
    if (ROOT / "complete").exists():
        return
    debs = ROOT / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    plan = _run("apt-get", "-s", "--no-install-recommends", "install", *PACKAGES)
    _run("apt-get", "-qq", "download", *NEW.findall(plan), folder=debs)
    for deb in debs.glob("*.deb"):
        _run("dpkg-deb", "-x", str(deb), str(ROOT))
        deb.unlink()
    debs.rmdir()
    (ROOT / "complete").touch()


def _policyd(namespace: Namespace, folder: Path) -> str:
    config = folder / "policyd.yaml"
    account = pwd.getpwuid(os.getuid()).pw_name
    config.write_text(POLICYD.format(folder=folder, port=POLICYD_PORT, user=account, group=account))
    started(namespace, "policyd-rate-limit", tcp(POLICYD_PORT), _inside("policyd-rate-limit", "-f", config))
    return through_postfix.policy(POLICYD_PORT)


def _postfwd(namespace: Namespace, folder: Path) -> str:
    own = folder / "postfwd"
    own.mkdir()
    own.chmod(0o777)
    # The daemon that counts is a process of its own, which there is not with --nodaemon.
    started(namespace, "postfwd", tcp(POSTFWD_PORT), _inside(
        "postfwd2", "--interface", "127.0.0.1", "--port", str(POSTFWD_PORT), "--user", "nobody",
        "--group", "nogroup", "--pidfile", own / "pid", "--rule", POSTFWD_RULE), daemon=True)
    return through_postfix.policy(POSTFWD_PORT)


def _rspamd(namespace: Namespace, folder: Path) -> str:
    config = folder / "rspamd.conf"
    path = folder / "rspamd.sock"
    config.write_text(RSPAMD.format(folder=folder, path=path, redis=REDIS_PORT))
    started(namespace, "redis", tcp(REDIS_PORT), _inside(
        "redis-server", "--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--save", "", "--dir", folder))
    started(namespace, "rspamd", f"unix:{path}", _inside("rspamd", "-f", "-i", "-c", config))
    return through_postfix.milter(path)


def _packaged_rspamd(namespace: Namespace, folder: Path) -> str:
    """With the redis of the one before."""
    path, own = folder / "rspamd-packaged.sock", folder / "rspamd"
    (own / "local.d").mkdir(parents=True)
    for name, text in LOCAL.items():
        (own / "local.d" / name).write_text(text.format(redis=REDIS_PORT, path=path))
    places = [f"--var={name}={own}" for name in ("LOCAL_CONFDIR", "RUNDIR", "DBDIR", "LOGDIR")]
    started(namespace, "rspamd as packaged", f"unix:{path}", _inside(
        "rspamd", "-f", "-i", *places, "-c", "/etc/rspamd/rspamd.conf"))
    return through_postfix.milter(path)


def check_rspamd(namespace: Namespace) -> None:
    """Raises LabError unless rspamd keeps a bucket in redis: otherwise it limits nothing."""
    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", REDIS_PORT), 10.0) as redis:
            redis.sendall(b"KEYS RL*\r\n")
            return redis.recv(100)
    if namespace.call(ask).startswith(b"*0"):
        raise LabError("rspamd counted nothing: its ratelimit is not in force")


def _inside(*argv: str | Path) -> list[str | Path]:
    return ["unshare", "--mount", "sh", "-ec", INSIDE, ROOT, *argv]


def _run(*argv: str, folder: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=folder, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv[:3])}: {done.stderr.strip()[-300:]}")
    return done.stdout
