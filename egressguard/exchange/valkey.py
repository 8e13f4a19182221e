"""The exchange on a Valkey or Redis server, for routers and relays without a file system in common.

Soft state: whatever is lost is written anew within a third of its lifetime, so a flush, a restart or a
failover costs freshness only. A document is a string of its own; beside it, a hash for each kind says by a
random token which version of each document there is, so that a poll costs two small replies, and what has
not changed is not read again. A write is one MULTI, so nobody sees a token without its document.
"""

import secrets
import threading
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError, ResponseError

from egressguard.core.documents import KINDS, MAX_LENGTH
from egressguard.core.errors import ExchangeError, ExchangeLateError
from egressguard.core.exchange_url import ServerPlace
from egressguard.exchange.hedged import Hedged
from egressguard.exchange.line import LateError

PREFIX = "egressguard"
PACKED, PACKED_FROM = "z ", 1024
BATCH = 64  # documents in one call, so that each stays within the deadline


class ValkeyStore:
    """See `egressguard.exchange.Store`.

    One call at a time, under one lock: the library's pool collapses under many threads.
    """

    def __init__(self, place: ServerPlace) -> None:
        self._lock = threading.Lock()
        self._label = f"exchange {', '.join(f'{host} port {port}' for host, port in place.addresses)}"
        self._tokens: dict[str, dict[str, str]] = {}  # as they are on the server
        self._polled: dict[str, dict[str, str]] = {}
        self._current: set[str] = set()  # kinds that have been polled, and not read since
        self._reading = False  # also after a reading that was late
        self._have: dict[str, dict[str, tuple[str, str | None]]] = {kind: {} for kind in KINDS}
        with self._translated():
            self._line = Hedged(place)

    def put(self, kind: str, name: str, text: str) -> None:
        """Leaves `text` in place of what stood there; what is of another type at our keys is removed."""
        token = secrets.token_hex(4)
        versions, document = key(kind), key(kind, name)
        write = (("MULTI",), ("SET", document, packed(text)), ("HSET", versions, name, token), ("EXEC",))
        with self._translated():
            replies = self._line.exchange(*write)[-1]
            if any(isinstance(reply, ResponseError) for reply in replies):
                # Nothing of ours has another type. Whatever it is, it would silence us for ever.
                self._line.exchange(("DEL", versions), *write)
            self._tokens.setdefault(kind, {})[name] = token
            self._polled.setdefault(kind, {})[name] = token

    def read(self, kind: str) -> Mapping[str, str]:
        """Every text of a kind, by name."""
        self._reading = True
        with self._translated():
            if kind not in self._current:
                self._tokens[kind] = self._versions(kind)[kind]
            tokens, have = self._tokens[kind], self._have[kind]
            wanted = sorted(name for name, token in tokens.items() if have.get(name, ("", ""))[0] != token)
            for name in have.keys() - tokens.keys():
                del have[name]
            for start in range(0, len(wanted), BATCH):
                names = wanted[start:start + BATCH]
                [texts] = self._line.ask(("MGET", *(key(kind, name) for name in names)))
                for name, text in zip(names, texts, strict=True):
                    # Without a token to compare, what is absent now is asked for again.
                    have[name] = (tokens[name], unpacked(text)) if text is not None else ("", None)
            self._current.discard(kind)
            self._reading = False
            return {name: text for name, (_, text) in have.items() if text is not None}

    def forget(self, kind: str, name: str) -> None:
        """Removes a text."""
        self._current.discard(kind)
        with self._translated():
            self._line.exchange(("MULTI",), ("DEL", key(kind, name)), ("HDEL", key(kind), name), ("EXEC",))

    def changed(self) -> bool:
        """Whether any token is another one than at the last call, or what is news could not be read then."""
        if self._reading:
            return True
        with self._translated():
            self._current = set()
            self._tokens = self._versions(*KINDS)
            self._current = set(KINDS)
        before, self._polled = self._polled, {kind: dict(found) for kind, found in self._tokens.items()}
        return before != self._polled

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()

    def _versions(self, *kinds: str) -> dict[str, dict[str, str]]:
        """The tokens of these kinds. What is no hash holds none: whoever writes next puts that right."""
        replies = self._line.ask(*(("HGETALL", key(kind)) for kind in kinds))
        for reply in replies:
            if isinstance(reply, ResponseError) and not str(reply).startswith("WRONGTYPE"):
                raise reply
        return {kind: {} if isinstance(reply, ResponseError) else _hash(reply)
                for kind, reply in zip(kinds, replies, strict=True)}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except LateError as error:
                raise ExchangeLateError(f"{self._label}: {error}") from error
            except (RedisError, OSError) as error:
                raise ExchangeError(f"{self._label}: {error}") from error


def packed(text: str) -> str:
    """`text` as it is kept: compressed when it is long, since every router reads every relay's report."""
    if len(text) < PACKED_FROM:
        return text
    return PACKED + b64encode(zlib.compress(text.encode(), 1)).decode()


def unpacked(kept: str) -> str:
    """The text of what is kept; what cannot be unpacked, or is too long, comes as it is: no document."""
    if not kept.startswith(PACKED):
        return kept
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(b64decode(kept.removeprefix(PACKED), validate=True), MAX_LENGTH)
        return text.decode() if unpacking.eof else kept
    except (zlib.error, ValueError):
        return kept


def key(*parts: str) -> str:
    """The server's key for a kind of document, or for one document."""
    return ":".join([PREFIX, *parts])


def _hash(reply: Any) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else dict(reply)
