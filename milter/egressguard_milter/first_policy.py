"""A relay's first policy as text: who its clients are, how much each may send. All else has its default."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from egressguard_milter.policy import RECIPIENTS_EACH, Base

MORE_FOR_MAILSERVERS = 50  # they send for many people; a verdict tightens them all the same


@dataclass(frozen=True)
class Wishes:
    """What an operator says of a relay."""

    relay: str
    networks: Sequence[str]
    mailservers: Sequence[str] = ()
    messages: int = 40
    socket: str = "inet:8892@127.0.0.1"
    state: str = ""
    exchange: str = ""
    exchange_key: str = ""


def policy_text(wishes: Wishes) -> str:
    """The policy as TOML; whether it can be used only reading it says."""
    settings = {"relay": wishes.relay, "socket": wishes.socket, "state": wishes.state,
                "exchange": wishes.exchange, "exchange_key": wishes.exchange_key}
    lines = ["# The policy of this relay, written by egressguard-milter init.",
             "# What is not here has its default: egressguard-milter.toml(5).",
             *(f"{key} = {_string(value)}" for key, value in settings.items() if value),
             "", "# Each client, in ten minutes. What is too much is deferred: the client's queue keeps it.",
             "[limits]", f"messages = {wishes.messages}", f"recipients = {wishes.messages * RECIPIENTS_EACH}",
             f"recipients_per_message = {Base().recipients_per_message}",
             f"refused_recipients = {Base().refused_recipients}", "window_s = 600.0"]
    if wishes.networks:
        lines += ["", "# The clients. No flood of strangers takes an account of one of them away.",
                  *_client(wishes.networks)]
    if wishes.mailservers:
        lines += ["", "# Mailservers send for many people.", *_client(wishes.mailservers),
                  f"messages = {wishes.messages * MORE_FOR_MAILSERVERS}",
                  f"recipients = {wishes.messages * RECIPIENTS_EACH * MORE_FOR_MAILSERVERS}",
                  f"refused_recipients = {(Base().refused_recipients or 0) * MORE_FOR_MAILSERVERS}"]
    return "\n".join(lines) + "\n"


def next_steps(wishes: Wishes, mta: str, config: str) -> list[str]:
    """The commands that connect the MTA and show that it asks; `config` where it is not the usual one."""
    where = {"postfix": "--postfix /etc/postfix", "sendmail": "--sendmail /etc/mail/sendmail.cf"}[mta]
    chosen = f" --config {config}" if config else ""
    networks = "".join(f" --network {network}" for network in wishes.networks)
    socket = "" if wishes.socket == Wishes.socket else f" --milter {wishes.socket}"
    return ["systemctl restart egressguard-milter" if not config else f"egressguard-milter run{chosen}",
            f"egressguard-milter mta-config --mta {mta} --role relay{networks}{socket}",
            f"egressguard-milter check {where}{chosen}",
            f"egressguard-milter status{chosen}"]


def _client(match: Sequence[str]) -> list[str]:
    return ["[[client]]", f"match = [{', '.join(map(_string, match))}]"]


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
