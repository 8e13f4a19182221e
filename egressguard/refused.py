"""Senders that are refused: they come from another interface or MAC than configured, or are imitated.

Counted is by host, so in IPv6 it may be another machine of the sender's /64.
"""

from collections.abc import Callable

from egressguard.core.hosts import Host
from egressguard.core.inventory import Inventory

REMEMBER_S = 600.0


class Refused:
    """Holds when each sender's last attempt was; an attempt is what the rules refuse, or would in observe."""

    def __init__(self) -> None:
        self._inventory: Inventory | None = None
        self._last_s: dict[Host, float] = {}

    def note(self, tried: Callable[[Host], bool], inventory: Inventory, now_s: float) -> None:
        """Asks which senders have `tried` since the last round. What another configuration refused is no
        mistake of this one, so its first round says nothing.
        """
        if inventory is not self._inventory:
            self._inventory, self._last_s = inventory, {}
            return
        self._last_s |= {host: now_s for host in inventory.senders if tried(host)}
        self._last_s = {host: at_s for host, at_s in self._last_s.items() if now_s - at_s < REMEMBER_S}

    def fault(self) -> str:
        """Who is refused, in words; empty when nobody is."""
        if self._inventory is None or not self._last_s:
            return ""
        names = self._inventory.names
        who = ", ".join(sorted(f"{names.get(host, host)} ({host})" for host in self._last_s))
        return (f"attempts of {who} are refused: it is permitted behind another interface or with another "
                "MAC, or a machine uses its address (`egressguard doctor` follows its route)")
