"""The switches under /proc/sys/net of this thread's network namespace; what does not exist is absent."""

from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/proc/sys/net")
KEYS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "netfilter/nf_conntrack_max",
        "netfilter/nf_conntrack_count", "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables")
PER_INTERFACE = ("ipv4/conf/{}/rp_filter", "ipv4/conf/{}/accept_source_route",
                 "ipv6/conf/{}/accept_source_route", "ipv6/conf/{}/seg6_enabled")


def read_sysctl(interfaces: Iterable[str]) -> dict[str, str]:
    """The values of KEYS, and of PER_INTERFACE for these interfaces and for `all`."""
    keys = [*KEYS, *(key.format(name) for name in ("all", *interfaces) for key in PER_INTERFACE)]
    return {key: text for key in keys if (text := _read(ROOT / key)) is not None}


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return None
