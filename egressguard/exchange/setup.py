"""What a site writes to its server so that routers and relays can share it: configuration, users, secrets.

One user for each role, so that a relay that was broken into can report, and nothing else: it can neither
publish verdicts nor remove them.
"""

import hashlib
import secrets
from typing import NamedTuple

CALLS = "+ping +role +multi +exec +discard +get +mget +hget +hgetall"
WRITES = "+set +del +hset +hdel +eval +time +info +hincrby +pexpire"
KEYS = {
    "router": "%RW~egressguard:*",
    "relay": "%R~egressguard:bulletin %R~egressguard:bulletin:* %RW~egressguard:report "
             "%RW~egressguard:report:* %RW~egressguard:budget %RW~egressguard:budget:*",
    "operator": "%R~egressguard:*",
}
SERVER = """\
# Encrypted only, users only from the file below. Everything here is soft state: nothing is saved, and what is
# lost is written anew within seconds. `noeviction`: a full server says so, instead of forgetting silently.
bind {addresses}
port 0
tls-port {port}
tls-cert-file {folder}/server.crt
tls-key-file {folder}/server.key
tls-ca-cert-file {folder}/ca.crt
tls-auth-clients no
tls-protocols "TLSv1.2 TLSv1.3"
aclfile {folder}/egressguard.acl
maxmemory 512mb
maxmemory-policy noeviction
save ""
appendonly no
repl-diskless-sync yes
repl-diskless-sync-delay 0
"""


class File(NamedTuple):
    """A file to write, on which host, and its content."""

    name: str
    where: str
    text: str


def files(addresses: str, port: int, folder: str) -> list[File]:
    """Everything with fresh secrets: `folder` is the server's own, such as /etc/valkey."""
    passwords = {role: secrets.token_urlsafe(24) for role in KEYS}
    return [
        File("egressguard.conf", f"the server: include {folder}/egressguard.conf",
             SERVER.format(addresses=addresses, port=port, folder=folder)),
        File("egressguard.acl", f"the server: {folder}/egressguard.acl, mode 640",
             "".join(acl_line(role, password) + "\n" for role, password in passwords.items())
             + "user default off\n"),
        *(File(f"{role}.password", f"every {role}: /etc/egressguard/exchange.password, mode 640",
               password + "\n") for role, password in passwords.items()),
        File("exchange.key", "every router and relay: /etc/egressguard/exchange.key, mode 640",
             new_key() + "\n"),
    ]


def acl_line(role: str, password: str) -> str:
    """The server's user for a role; only a hash of the password stands in it."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    calls = CALLS if role == "operator" else f"{CALLS} {WRITES}"
    return f"user {role} on #{digest} resetchannels {KEYS[role]} -@all {calls}"


def new_key() -> str:
    """A fresh site key, as a line of a key file."""
    return f"k{secrets.token_hex(3)} {secrets.token_hex(32)}"
