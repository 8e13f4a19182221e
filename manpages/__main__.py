"""`script/manpages FOLDER` writes every man page there."""

import sys
from importlib.metadata import version
from pathlib import Path

from egressguard.cli import cli as router
from egressguard.core.settings import Settings
from egressguard_milter.cli import cli as relay
from egressguard_milter.policy import Policy
from manpages.commands import command_page
from manpages.files import file_page

ROOT = Path(__file__).resolve().parent.parent
ROUTER_FILE, RELAY_FILE = "/etc/egressguard/egressguard.toml", "/etc/egressguard/egressguard-milter.toml"
SUMMARIES = {
    "egressguard": "blocks direct outgoing SMTP, counts who tries, and tells the relay",
    "egressguard-milter": "limits what each client may send through a mail relay",
}


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    number = version("egressguard")
    return {
        "egressguard.8": command_page(
            "egressguard", SUMMARIES["egressguard"], router, number,
            {ROUTER_FILE: "The configuration.", "/var/lib/egressguard": "History, and rules for the boot."},
            "`egressguard.toml`(5), `egressguard-milter`(8), `nft`(8)"),
        "egressguard-milter.8": command_page(
            "egressguard-milter", SUMMARIES["egressguard-milter"], relay, number, {RELAY_FILE: "The policy."},
            "`egressguard-milter.toml`(5), `egressguard`(8), `postconf`(5)"),
        "egressguard.toml.5": file_page(
            ROUTER_FILE, "the configuration of a router", Settings, ROOT / "docs/examples/egressguard.toml",
            number, "`egressguard`(8)"),
        "egressguard-milter.toml.5": file_page(
            RELAY_FILE, "the policy of a mail relay", Policy, ROOT / "milter/egressguard-milter.toml", number,
            "`egressguard-milter`(8)"),
    }


def main() -> None:
    """Writes them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
