"""One request to a running milter and its answer: one line of JSON each."""

import json
from dataclasses import dataclass
from typing import Any

from egressguard.core.hosts import Address, canonical_address, host_of

MAX_LENGTH = 4096
COMMANDS = ("status", "clients", "explain", "forgive", "reload")
WITH_CLIENT = ("explain", "forgive")
KEY_WORDS = ("sender", "senders", "login", "group", "clients", "network", "known", "every", "unaddressed")
MOST_CLIENTS = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A command; `client` for those that ask about one, `name` its host name, `count` for lists."""

    command: str
    client: Address | None = None
    key: str = ""
    name: str = ""
    count: int = 20


def parse_request(line: bytes) -> Request:
    """The request in `line`. Raises ValueError, saying what would be right, for anything else."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("a request is one line of JSON") from None
    if not isinstance(body, dict) or not set(body) <= {"command", "client", "name", "count"}:
        raise ValueError("a request is an object with command, client, name, count")
    command, client = _text(body, "command"), _text(body, "client")
    count = body.get("count", 20)
    if command not in COMMANDS:
        raise ValueError(f"unknown command {command[:40]!r}: use {', '.join(COMMANDS)}")
    if type(count) is not int or not 0 < count <= MOST_CLIENTS:
        raise ValueError(f"count must be 1 to {MOST_CLIENTS}")
    if command not in WITH_CLIENT:
        return Request(command, count=count)
    return Request(command, *_client(client), name=_text(body, "name"))


def encode_request(command: str, **fields: Any) -> bytes:
    """A request as `parse_request` reads it."""
    return json.dumps({"command": command, **fields}).encode() + b"\n"


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field, "")
    if not isinstance(value, str) or len(value) > 400:
        raise ValueError(f"{field} must be text of at most 400 characters")
    return value


def _client(text: str) -> tuple[Address | None, str]:
    """An address, a client's key such as 2001:db8::/64, or another key as the log names it."""
    try:
        address = canonical_address(text.partition("/")[0])
    except ValueError:
        kind = text.partition(" ")[0]
        if kind in KEY_WORDS:
            return None, text.lower() if kind in ("sender", "senders", "login") else text
        raise ValueError(f"{text[:80]!r} is no client: write an address, or a key as the log names it, "
                         "such as 'sender a@example.org'") from None
    if "/" in text and text != host_of(address):
        raise ValueError(f"{text[:80]!r} is a network and no client: write an address in it, or what its "
                         "clients share as the log names it, such as 'clients 192.0.2.0/24'")
    return address, ""
