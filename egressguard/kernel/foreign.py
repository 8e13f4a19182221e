"""Other tables' rules, through libnftables' JSON in its terse form, which leaves the elements of sets out."""

import json
from pathlib import Path
from typing import Any

import nftables

from egressguard.core.errors import KernelError

LEGACY = ("ip_tables_names", "ip6_tables_names")


def read_listing() -> list[dict[str, Any]]:
    """Every object of `nft -j -t list ruleset`, the version of libnftables among them."""
    nft = nftables.Nftables()
    nft.set_json_output(True)
    nft.set_terse_output(True)
    nft.set_numeric_prio_output(True)
    code, output, error = nft.cmd("list ruleset")
    if code != 0:
        raise KernelError(f"listing the ruleset: {error.strip()[:500]}")
    listing: list[dict[str, Any]] = json.loads(output)["nftables"]
    return listing


def read_legacy() -> tuple[str, ...]:
    """The tables that iptables-legacy and ip6tables-legacy have made in this network namespace."""
    found = []
    for name in LEGACY:
        path = Path("/proc/thread-self/net", name)
        if path.exists():
            found += [f"{name.partition('_')[0]} {table}" for table in path.read_text("ascii").split()]
    return tuple(found)


def version(listing: list[dict[str, Any]]) -> tuple[int, ...]:
    """The version of libnftables, from what it said."""
    text = next((entry["metainfo"]["version"] for entry in listing if "metainfo" in entry), "0.0")
    return tuple(int(part) for part in text.split(".") if part.isdigit())
