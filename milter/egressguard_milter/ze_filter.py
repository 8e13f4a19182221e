"""ze-filter's policy database as text, and its CHECK_ and MAX_ switches from ze-filter.cf.

One entry a line, `Prefix:Key Value`; the first of several equal ones wins; zero or less means unlimited.
Keys are an address, its leading octets or groups, a host name or domain, a class of NetClass, or default.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network

from egressguard_milter.draft import MAX_COUNT, Draft, Section
from egressguard_milter.matching import parse_match, parse_sender

CLIENT_LIMITS = {
    "connrate": "connections", "connopen": "open_connections", "maxrcpt": "recipients_per_message",
    "rcptrate": "recipients", "msgrate": "messages", "maxmsgs": "messages_per_connection",
}
SENDER_LIMITS = {"msgratefrom": "messages", "rcptratefrom": "recipients",
                 "maxrcptfrom": "recipients_per_message"}
LOGIN_LIMITS = {"msgrateauth": "messages", "rcptrateauth": "recipients",
                "maxrcptauth": "recipients_per_message"}
OTHER_PREFIXES = {name.lower(): name for name in (
    "AccessConnect", "AccessFrom", "AccessTo", "ArchiveConnect", "ArchiveFrom", "ArchiveTo", "BadMX",
    "BayesCheckConnect", "BayesCheckFrom", "BayesCheckTo", "ContentCheckConnect", "ContentCheckFrom",
    "ContentCheckTo", "CtrlChan", "GreyCheckConnect", "GreyCheckFrom", "GreyCheckTo", "GreyEquivDomain",
    "MaxMsgSize", "NetClassEquiv", "NotifyUser", "Passport", "RejectShortMsgsConnect", "RejectShortMsgsFrom",
    "RejectShortMsgsTo", "ReplyMsg", "SpamTrap", "VirusCheckConnect", "VirusCheckFrom", "VirusCheckTo",
    "XFilesCheckConnect", "XFilesCheckFrom", "XFilesCheckTo")}
SWITCHES = {
    "CHECK_CONN_RATE": "connections", "CHECK_OPEN_CONNECTIONS": "open_connections",
    "CHECK_NB_RCPT": "recipients_per_message", "CHECK_RCPT_RATE": "recipients", "CHECK_MSG_RATE": "messages",
    "CHECK_NB_MSGS": "messages_per_connection", "CHECK_BADRCPTS": "refused_recipients",
    "CHECK_FROM_MSG_RATE": "senders",
}
DEFAULTS = {
    "MAX_CONN_RATE": "connections", "MAX_CONN_OPEN": "open_connections", "MAX_RCPT": "recipients_per_message",
    "MAX_RCPT_RATE": "recipients", "MAX_MSG_RATE": "messages", "MAX_MSGS": "messages_per_connection",
    "MAX_BADRCPTS": "refused_recipients",
}
SENDER_DEFAULTS = {"MAX_FROM_MSG_RATE": "messages", "MAX_FROM_RCPT_RATE": "recipients",
                   "MAX_FROM_RCPT": "recipients_per_message"}
DEFAULT_KEYS = ("default", "*")
OCTETS = re.compile(r"\d{1,3}(\.\d{1,3}){0,2}\.?")
GROUPS = re.compile(r"[0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,6}:{0,2}", re.IGNORECASE)
CLASS = re.compile(r"[A-Za-z0-9_-]{1,64}")
SETTING = re.compile(r"[A-Z][A-Z0-9_]+")


def read(lines: Iterable[str]) -> Draft:
    """What the lines say; nothing in them is an error, but much may be a remark."""
    draft = Draft()
    draft.collect(lines, _entry)
    # The policy's default wins over ze-filter.cf's setting, wherever the two stand.
    draft.base.values = {**draft.fallback, **draft.base.values}
    draft.sender_base.values = {**draft.sender_fallback, **draft.sender_base.values}
    return draft


def _entry(draft: Draft, word: str, value: str) -> None:
    prefix, colon, key = word.partition(":")
    name = prefix.lower()
    if not colon:
        _setting(draft, word, value)
    elif name == "netclass":
        _member(draft, key, value)
    elif name in CLIENT_LIMITS:
        _put(_client_section(draft, key), CLIENT_LIMITS[name], _count(value))
    elif name in SENDER_LIMITS:
        _put(_key_section(draft.sender_base, draft.senders, _sender(key)), SENDER_LIMITS[name], _count(value))
    elif name in LOGIN_LIMITS:
        _put(_key_section(draft.login_base, draft.logins, key), LOGIN_LIMITS[name], _count(value))
    else:
        raise ValueError("is not a limit" if name in OTHER_PREFIXES else "is no key of ze-filter's policy")


def _setting(draft: Draft, name: str, value: str) -> None:
    if name in SWITCHES:
        if value.upper() not in ("YES", "NO"):
            raise ValueError(f"must be YES or NO, not {value!r}")
        draft.checks[SWITCHES[name]] = value.upper() == "YES"
    elif name in DEFAULTS:
        draft.fallback.setdefault(DEFAULTS[name], _count(value))
    elif name in SENDER_DEFAULTS:
        draft.sender_fallback.setdefault(SENDER_DEFAULTS[name], _count(value))
    else:
        raise ValueError("is a setting without a meaning here" if SETTING.fullmatch(name)
                         else "is no entry: Prefix:Key Value")


def _count(value: str) -> int | None:
    """A limit as ze-filter reads it: strtol; zero or less is unlimited."""
    match = re.fullmatch(r"[+-]?[0-9]{1,18}", value)
    if match is None:
        raise ValueError(f"{value!r} is no number")
    count = int(value)
    if count > MAX_COUNT:
        raise ValueError(f"{count} is above {MAX_COUNT}")
    return count if count > 0 else None


def _put(section: Section, limit: str, count: int | None) -> None:
    if section.values.setdefault(limit, count) != count:
        raise ValueError("another spelling of the same key has another value, and the first one wins")


def _client_section(draft: Draft, key: str) -> Section:
    if key.lower() in DEFAULT_KEYS:
        return draft.base
    name = leading_match(key)
    if name is not None:
        return draft.clients.setdefault(name, Section())
    if CLASS.fullmatch(key):
        return draft.groups.setdefault(key.upper(), Section())
    raise ValueError("is no address, network, host name or class")


def _member(draft: Draft, key: str, value: str) -> None:
    name = leading_match(key)
    if name is None:
        raise ValueError("is no address, network or host name")
    if not CLASS.fullmatch(value):
        raise ValueError(f"{value!r} is no class")
    if draft.memberships.setdefault(name, value.upper()) != value.upper():
        raise ValueError("another spelling of the same key has another class, and the first one wins")


def leading_match(key: str) -> str | None:
    """The key as one of ours: leading octets and groups are networks, a word without a dot is a class."""
    plain = key.removeprefix("IPv6:").removeprefix("[").removesuffix("]")
    if OCTETS.fullmatch(plain):
        octets = plain.strip(".").split(".")
        if any(int(octet) > 255 for octet in octets):
            raise ValueError("is no network: an octet is above 255")
        address = IPv4Address(".".join(str(int(o)) for o in [*octets, *["0"] * (4 - len(octets))]))
        return str(ip_network(f"{address}/{8 * len(octets)}"))
    if ":" in plain and GROUPS.fullmatch(plain) and plain.count("::") <= 1:
        groups = plain.rstrip(":").split(":")
        if "" not in groups:
            network = IPv6Address(":".join([*groups, *["0"] * (8 - len(groups))]))
            return str(ip_network(f"{network}/{16 * len(groups)}"))
    if "." not in plain and ":" not in plain:
        return None
    return str(parse_match(plain))


def _sender(key: str) -> str:
    if key.lower() in DEFAULT_KEYS or key.lower() == "nullsender":
        return "<>" if key.lower() == "nullsender" else "default"
    return parse_sender(key.removeprefix("*@"))


def _key_section(base: Section, sections: dict[str, Section], key: str) -> Section:
    if key.lower() in DEFAULT_KEYS:
        return base
    if not key or not key.isprintable() or len(key) > 320:
        raise ValueError("is no key")
    return sections.setdefault(key, Section())
