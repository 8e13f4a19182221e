"""Logins of a real MTA: Cyrus SASL with a password file of its own, in a folder of its own."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("smtpd", "Sendmail")  # the names under which Postfix and sendmail look for their configuration
CONFIGURATION = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
mech_list: PLAIN LOGIN
sasldb_path: {passwords}
"""


def write_logins(folder: Path, realm: str, logins: Mapping[str, str], owner: str) -> Path:
    """Makes `folder` one that an MTA run by `owner` can be given; `logins` are passwords by name."""
    folder.mkdir(mode=0o755)
    passwords = folder / "sasldb2"
    for name in PROGRAMS:
        (folder / f"{name}.conf").write_text(CONFIGURATION.format(passwords=passwords))
    for login, password in logins.items():
        subprocess.run(["saslpasswd2", "-f", passwords, "-u", realm, "-p", "-c", login],
                       input=password, text=True, check=True, capture_output=True)
    passwords.chmod(0o600)
    shutil.chown(passwords, owner)
    return folder
