"""A document is believed when a site key vouches for it, and for what kind of document it is.

The key is one secret that all routers and relays of a site share: it keeps out whoever can reach the exchange
but does not hold it. It does not tell a relay from a router: who may write what is for the exchange's own
access rules (file permissions, ACLs). HMAC-SHA256 (RFC 2104); a key has a name, so that it can be changed
while old and new documents are about.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

MARK = "eg1"
MIN_KEY_BYTES = 32
KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
MAX_KEYS = 8


class ForgedError(ValueError):
    """No key of the site vouches for a text."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The site's keys by name; the first signs, every one is believed. Empty: nothing is signed."""

    keys: Mapping[str, bytes]

    def sign(self, kind: str, body: str) -> str:
        """`body` with its signature as a document of `kind`; `body` itself without a key."""
        for name, key in self.keys.items():
            return f"{MARK} {name} {_mac(key, kind, name, body)} {body}"
        return body

    def verified(self, kind: str, text: str) -> str:
        """The body in `text`. Raises ForgedError when no key vouches for it as a document of `kind`."""
        mark, _, rest = text.partition(" ")
        if not self.keys:
            if mark == MARK:
                raise ForgedError("is signed, and there is no exchange_key to verify it")
            return text
        if mark != MARK:
            raise ForgedError("is not signed")
        name, _, rest = rest.partition(" ")
        mac, _, body = rest.partition(" ")
        if name not in self.keys:
            raise ForgedError("is signed with a key that is not known here")
        if not hmac.compare_digest(mac.encode(), _mac(self.keys[name], kind, name, body).encode()):
            raise ForgedError("has a wrong signature")
        return body


UNSIGNED = Keyring({})


def parse_keys(text: str) -> Keyring:
    """The keys of a key file: a line each, `NAME HEX`, the one that signs first; `#` begins a comment.

    Raises ValueError, saying what would be right, and never what the key is.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not KEY_NAME.fullmatch(words[0]) or not re.fullmatch("[0-9a-fA-F]+", words[1]):
            raise ValueError(f"line {number} is no key: write NAME HEX")
        if words[0] in keys:
            raise ValueError(f"line {number}: key {words[0]} stands there twice")
        if len(words[1]) % 2 or len(words[1]) < 2 * MIN_KEY_BYTES:
            raise ValueError(f"line {number}: a key has at least {2 * MIN_KEY_BYTES} hexadecimal digits")
        keys[words[0]] = bytes.fromhex(words[1])
    if not 0 < len(keys) <= MAX_KEYS:
        raise ValueError(f"has {len(keys)} keys: 1 to {MAX_KEYS} are right")
    return Keyring(keys)


def _mac(key: bytes, kind: str, name: str, body: str) -> str:
    return hmac.new(key, f"{MARK} {kind} {name} {body}".encode("utf-8", "surrogatepass"),
                    hashlib.sha256).hexdigest()
