"""What firewalld writes when a policy is to drop what one zone sends to port 25 in another: it runs for real,
once, on a bus of its own in the router's network namespace, and what it has written is measured without it.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from lab.namespaces import Namespace, end, wait_until

PACKAGE = Path(__file__).parents[2] / ".lab/firewalld"  # unpacked by script/bootstrap

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_type="method_call"/>
    <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
ZONE = '<zone target="{target}"><interface name="{interface}"/><forward/></zone>\n'
POLICY = """<policy target="ACCEPT">
  <ingress-zone name="inner"/><egress-zone name="outer"/>
  <rule><port port="25" protocol="tcp"/><drop/></rule>
</policy>
"""
FILES = {
    "bus.conf": BUS,
    "firewalld.conf": "DefaultZone=outer\nFirewallBackend=nftables\nIPv6_rpfilter=yes\nLogDenied=off\n",
    "zones/inner.xml": ZONE.format(target="ACCEPT", interface="web"),
    "zones/outer.xml": ZONE.format(target="ACCEPT", interface="wan"),
    "policies/smtp.xml": POLICY,
}


def ruleset(router: Namespace) -> str:
    """The router's whole ruleset, as firewalld has made it; it is empty afterwards."""
    with tempfile.TemporaryDirectory(prefix="eg-firewalld-") as name:
        folder = Path(name)
        for path, text in FILES.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text.replace("{folder}", name))
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus",
                       "PYTHONPATH": str(PACKAGE / "usr/lib/python3/dist-packages")}
        programs = []
        try:
            programs.append(router.popen(["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork"],
                                         stderr=subprocess.DEVNULL))
            wait_until((folder / "bus").exists, "the bus")
            programs.append(router.popen(
                ["/usr/bin/python3", PACKAGE / "usr/sbin/firewalld", "--nofork", "--nopid",
                 f"--default-config={PACKAGE}/usr/lib/firewalld", f"--system-config={folder}"],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_until(lambda: "dport 25" in _written(router), "firewalld to write its rules", timeout_s=30.0)
            return _written(router)
        finally:
            for program in reversed(programs):
                end(program)
            router.run(["nft", "flush", "ruleset"])


def _written(router: Namespace) -> str:
    return router.run(["nft", "list", "ruleset"]).stdout
