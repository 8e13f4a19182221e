"""HOST on the command line: an address, or a name of the inventory; what is neither gets a suggestion."""

import difflib
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from egressguard.config import DEFAULT_PATH, read_site
from egressguard.core.errors import ConfigError
from egressguard.core.hosts import canonical_address, host_of


class HostArgument(click.ParamType[str]):
    """Becomes the key of a host: its IPv4 address, or its IPv6 /64."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The key of the host that `value` names."""
        try:
            return host_of(canonical_address(str(ip_address(str(value).removesuffix("/64")))))
        except ValueError:
            addresses = _inventory(_config(ctx))
        if value not in addresses:
            self._refuse(value, addresses, param, ctx)
        return addresses[value]

    def _refuse(self, value: str, addresses: dict[str, str], param: click.Parameter | None,
                ctx: click.Context | None) -> NoReturn:
        close = difflib.get_close_matches(value, addresses, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Give an address such as 192.0.2.7, or a name."
        self.fail(f"{value!r} is neither an address nor a name of the inventory. {hint}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter,
                       incomplete: str) -> list[CompletionItem]:
        """The names and keys that begin so; none where the configuration cannot be read."""
        try:
            addresses = _inventory(_config(ctx))
        except ConfigError:
            return []
        return [CompletionItem(word) for word in sorted({*addresses, *addresses.values()})
                if word.startswith(incomplete)]


def _config(ctx: click.Context | None) -> Path:
    """`--config` is read first (is_eager), wherever it stands on the line."""
    return Path(ctx.params.get("config") or DEFAULT_PATH) if ctx is not None else DEFAULT_PATH


def _inventory(config: Path) -> dict[str, str]:
    """The key of each named machine's first address."""
    machines = read_site(config).settings.machines()
    return {machine.name: host_of(machine.addresses[0]) for _, machine in machines if machine.addresses}


HOST = HostArgument()
