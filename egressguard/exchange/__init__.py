"""Where routers and relays leave verdicts and reports for each other; `open_exchange` finds it by URL."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from egressguard.core.documents import (
    BULLETIN,
    KINDS,
    MAX_LENGTH,
    REPORT,
    Bulletin,
    Document,
    Report,
    decode_bulletin,
    decode_report,
    encode_bulletin,
    encode_report,
)
from egressguard.core.errors import ExchangeError
from egressguard.core.exchange_url import SqlitePlace, parse
from egressguard.core.signing import UNSIGNED, ForgedError, Keyring

D = TypeVar("D", bound=Document)
MAX_DOCUMENTS = 1000  # of a kind


class Store(Protocol):
    """A place that keeps one text for each kind of document and name. Every method raises ExchangeError."""

    def put(self, kind: str, name: str, text: str) -> None:
        """Leaves `text` in place of what stood there."""

    def read(self, kind: str) -> Mapping[str, str]:
        """Every text of a kind, by name."""

    def forget(self, kind: str, name: str) -> None:
        """Removes a text."""

    def changed(self) -> bool:
        """Whether anybody else may have left something since the last call; cheap enough to poll."""

    def close(self) -> None:
        """Lets go of the place; what was left stays."""


class Exchange:
    """Documents in a store: each origin has one of a kind, the newest it left, signed if there is a key.

    Every method raises ExchangeError when the place cannot be reached or refuses. A document that cannot be
    decoded, or that no key vouches for, is left out, so that one bad writer cannot silence the others:
    `left_out` says which and why at the last reading, `counts` how many there ever were.
    """

    def __init__(self, store: Store, keyring: Callable[[], Keyring] = lambda: UNSIGNED) -> None:
        self.left_out: dict[tuple[str, str], str] = {}
        self.counts = Counter[str]()
        self._store, self._keyring = store, keyring
        self._decoded: dict[tuple[str, str], tuple[str, Document | None]] = {}
        self._keys = keyring()

    def publish(self, bulletin: Bulletin) -> None:
        """Leaves a router's bulletin in place of its last one."""
        self._put(BULLETIN, bulletin, encode_bulletin(bulletin))

    def bulletins(self) -> list[Bulletin]:
        """Every router's newest bulletin."""
        return self._read(BULLETIN, decode_bulletin)

    def report(self, report: Report) -> None:
        """Leaves a relay's report in place of its last one."""
        self._put(REPORT, report, encode_report(report))

    def reports(self) -> list[Report]:
        """Every relay's newest report."""
        return self._read(REPORT, decode_report)

    def names(self) -> dict[str, list[str]]:
        """Who has left a document, by its kind."""
        return {kind: sorted(self._store.read(kind)) for kind in KINDS}

    def forget(self, name: str) -> None:
        """Removes what `name` has left: for a router or relay that is no more."""
        for kind in KINDS:
            self._store.forget(kind, name)

    def changed(self) -> bool:
        """Whether anybody else may have left something since the last call; cheap enough to poll."""
        keys, self._keys = self._keys, self._keyring()
        if keys is not self._keys:  # what was not believed may be now, and the other way round
            self._decoded.clear()
        return self._store.changed() or keys is not self._keys

    def close(self) -> None:
        """Lets go of the place; what was left stays."""
        self._store.close()

    def _put(self, kind: str, document: Document, body: str) -> None:
        self._store.put(kind, document.origin.name, self._keyring().sign(kind, body))

    def _read(self, kind: str, decode: Callable[[str], D]) -> list[D]:
        texts = self._store.read(kind)
        for key in [k for k in self._decoded if k[0] == kind and k[1] not in texts]:
            del self._decoded[key]
        self.left_out = {key: why for key, why in self.left_out.items() if key[0] != kind}
        found = []
        for name in sorted(texts)[:MAX_DOCUMENTS]:
            document = self._document(kind, name, texts[name], decode)
            if document is not None:
                found.append(document)
        return found

    def _document(self, kind: str, name: str, text: str, decode: Callable[[str], D]) -> D | None:
        """The document in `text`; one that was read before is not decoded again."""
        known, document = self._decoded.get((kind, name), ("", None))
        if known != text or document is None:
            try:
                document = self._believed(kind, name, text, decode)
            except ValueError as error:
                self.left_out[kind, name] = str(error)[:200]
                if known != text:
                    self.counts["forged" if isinstance(error, ForgedError) else "damaged"] += 1
                document = None
            self._decoded[kind, name] = text, document
        return document  # type: ignore[return-value]  # of this kind, since it was decoded as such

    def _believed(self, kind: str, name: str, text: str, decode: Callable[[str], D]) -> D:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"is longer than {MAX_LENGTH} characters")
        document = decode(self._keys.verified(kind, text))
        if document.origin.name != name:
            raise ForgedError("stands under another one's name")
        return document


def open_exchange(url: str, key: str = "", *, read_only: bool = False) -> Exchange:
    """The exchange at `url`, with the site keys in the file `key` (none: documents are not signed).

    A file is made if it does not exist yet, unless `read_only`. Raises ExchangeError.
    """
    from egressguard.exchange.key_file import KeyFile
    from egressguard.exchange.sqlite import SqliteStore

    keyring = KeyFile(key).keyring if key else lambda: UNSIGNED
    keyring()  # a missing key is said before anything is made
    try:
        place = parse(url)
    except ValueError as error:
        raise ExchangeError(f"exchange: {error}") from None
    if isinstance(place, SqlitePlace):
        return Exchange(SqliteStore(Path(place.path), read_only=read_only), keyring)
    from egressguard.exchange.valkey import ValkeyStore  # the client library is slow to import

    return Exchange(ValkeyStore(place), keyring)
