"""What fail2ban's own actions write when they ban some addresses from port 25 of whatever is forwarded.

The package's files and its code run for real, once, in the router's network namespace, and what they have
written is measured without them.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.namespaces import LabError, Namespace

PACKAGE = Path(__file__).parents[2] / ".lab/fail2ban"  # unpacked by script/bootstrap
# What a site sets: the hook of a router, and to be silent as the others here are; all else is the package's.
OPTIONS = {"nftables-multiport": {"chain_hook": "forward", "blocktype": "drop"},
           "iptables-multiport": {"chain": "FORWARD", "blocktype": "DROP", "blocktype?family=inet6": "DROP"}}
PROGRAM = """
import json, sys
from fail2ban.client.actionreader import ActionReader
from fail2ban.server.action import CommandAction

folder, name, options, *addresses = sys.argv[1:]
reader = ActionReader(name, "smtp", {**json.loads(options), "port": "25", "protocol": "tcp"}, basedir=folder)
assert reader.read(), "no such action"
reader.getOptions({})
action = CommandAction(None, "smtp")
for command in reader.convert()[1:]:
    for key, value in command[4]:
        setattr(action, key, value)
action.start()
for address in addresses:
    action.ban({"ip": address, "family": "inet6" if ":" in address else "inet4"})
"""


def banned(router: Namespace, action: str, addresses: Sequence[str]) -> None:
    """Does to the router's ruleset what fail2ban's action does when it bans these one after the other."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE / "usr/lib/python3/dist-packages")}
    argv = ["nsenter", f"--net={router.path}", "/usr/bin/python3", "-c", PROGRAM, PACKAGE / "etc/fail2ban",
            action, json.dumps(OPTIONS[action]), *addresses]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0 or done.stderr:
        raise LabError(f"fail2ban's {action}: {done.stdout}{done.stderr}")
