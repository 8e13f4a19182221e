"""The MTAs of the how-to, each run with what `egressguard mta-config` prints and little else."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lab.namespaces import Namespace
from lab.network import INSIDE, OUTSIDE, SOMEBODY4
from lab.postfix import Postfix
from lab.sendmail import Sendmail

EGRESSGUARD = Path(sys.executable).parent / "egressguard"
PART = re.compile(r"^==> (.*) <==\n", re.MULTILINE)
MAIN, MC = "/etc/postfix/main.cf", "/etc/mail/sendmail.mc"

Mta = Postfix | Sendmail
MTAS = ("postfix", "sendmail")
NAMES = {address: f"{place.name}.example" for place in (*INSIDE, OUTSIDE) for address in place.addresses}


def mta_config(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`egressguard mta-config`, run to its end."""
    return subprocess.run([EGRESSGUARD, "mta-config", *arguments], text=True, capture_output=True, check=False)


def printed(*arguments: str) -> dict[str, str]:
    """What `egressguard mta-config` printed, by file."""
    done = mta_config(*arguments)
    assert done.returncode == 0, done.stderr
    pieces = PART.split(done.stdout)
    return dict(zip(pieces[1::2], (text.rstrip("\n") + "\n" for text in pieces[2::2]), strict=True))


def client(mta: str, namespace: Namespace, relay: str, *, queue_run: str = "1s", queue_age: str = "2s") -> Mta:
    """A web server's own MTA, which sends everything through `relay`."""
    parts = printed("--mta", mta, "--role", "client", "--relay", relay,
                    "--queue-run", queue_run, "--queue-age", queue_age)
    hostname = f"{namespace.label}.example"
    if mta == "postfix":
        return Postfix(namespace, hostname=hostname,
                       settings={"default_transport": "smtp", **main_cf(parts[MAIN])})
    return Sendmail(namespace, hostname=hostname, mc=parts[MC], names=NAMES,
                    maps={"mailertable": parts["/etc/mail/mailertable"]},
                    arguments=shlex.split(parts["command line"])[1:])


def relay(mta: str, namespace: Namespace, *networks: str, milter: str = "inet:8892@127.0.0.1",
          next_hop: str = SOMEBODY4, port: int = 25, settings: Mapping[str, str] | None = None,
          sasl: Path | None = None) -> Mta:
    """A relay for `networks` that asks the milter and delivers everything to `next_hop`."""
    arguments = [word for network in networks for word in ("--network", network)]
    parts = printed("--mta", mta, "--role", "relay", "--milter", milter, *arguments)
    if mta == "postfix":
        # Debian 13's looks where it is told; Debian 12's beside main.cf, whatever it is told.
        path = {"cyrus_sasl_config_path": str(sasl)} if sasl is not None else {}
        postfix = Postfix(namespace, settings={
            "default_transport": f"smtp:[{next_hop}]:{port}", **main_cf(parts[MAIN]), **path, **(settings or {})})
        if sasl is not None:
            shutil.copytree(sasl, postfix.config / "sasl")
        return postfix
    delivery = f"define(`ESMTP_MAILER_ARGS', `TCP $h {port}')dnl\nFEATURE(`mailertable')dnl\n"
    mc = parts[MC]
    for old, new in (settings or {}).items():
        assert old in mc
        mc = mc.replace(old, new)
    return Sendmail(namespace, mc=delivery + mc, names=NAMES, sasl=sasl,
                    maps={"access": parts["/etc/mail/access"], "mailertable": f".\tesmtp:[{next_hop}]\n"})


def main_cf(text: str) -> dict[str, str]:
    """The parameters in a main.cf without continuation lines."""
    lines = (line.partition("=") for line in text.splitlines() if line[:1] not in ("", "#"))
    return {key.strip(): value.strip() for key, _, value in lines}
