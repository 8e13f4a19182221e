"""sendmail's access database as text: who may relay becomes a known client, its rate limits become ours.

`Connect:` names clients; `ClientRate:` is connections per minute and `ClientConn:` connections at once, with
zero for unlimited. Whatever else stands there is the MTA's business and stays with it.
"""

from collections.abc import Iterable

from egressguard_milter.draft import MAX_COUNT, Draft, Section
from egressguard_milter.ze_filter import leading_match

RATE_WINDOW_S = 60.0  # sendmail's ConnectionRateWindowSize
TAGS = ("connect", "from", "to", "spam", "greetpause", "clientrate", "clientconn", "srv_features",
        "try_tls", "tls_srv", "tls_clt", "tls_rcpt", "authinfo", "quarantine")


def read(lines: Iterable[str]) -> Draft:
    """What the lines say; nothing in them is an error, but much may be a remark."""
    draft = Draft()
    draft.collect(lines, _entry)
    return draft


def _entry(draft: Draft, word: str, value: str) -> None:
    tag, colon, key = word.partition(":")
    if not colon or tag.lower() not in TAGS:
        raise ValueError("has no tag of sendmail's: Connect:, ClientRate: and ClientConn: are carried over")
    if tag.lower() == "connect":
        if value.upper() != "RELAY":
            raise ValueError(f"{value[:40]!r} is for the MTA: only RELAY names a client of the relay")
        draft.clients.setdefault(_client(key), Section())
    elif tag.lower() in ("clientrate", "clientconn"):
        section = draft.base if not key else draft.clients.setdefault(_client(key), Section())
        _limit(section, tag.lower(), value)
    else:
        raise ValueError("is not about how much a client may send")


def _client(key: str) -> str:
    name = leading_match(key)
    if name is None:
        raise ValueError("is no address, network or domain")
    return name


def _limit(section: Section, tag: str, value: str) -> None:
    if not (value.isascii() and value.isdigit()) or int(value[:9]) > MAX_COUNT:
        raise ValueError(f"{value[:40]!r} is no number up to {MAX_COUNT}")
    count = int(value[:9]) or None
    if tag == "clientconn":
        section.values.setdefault("open_connections", count)
    elif count is None:
        section.values.setdefault("connections", None)
    else:
        section.also.setdefault(RATE_WINDOW_S, {}).setdefault("connections", count)
