"""Postfix: `postconf` says what each smtpd of master.cf will do."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard.core.errors import EgressguardError
from egressguard_milter.endpoint import Endpoint
from egressguard_milter.mta_check import UNLIMITED, Finding, endpoint_of, names, timeout_texts

PARAMETERS = ("smtpd_milters", "non_smtpd_milters", "milter_default_action", "milter_connect_timeout",
              "milter_command_timeout", "milter_content_timeout", "receive_override_options",
              "smtpd_proxy_filter", "smtpd_milter_maps", "milter_macro_v", "milter_connect_macros",
              "milter_protocol", "queue_directory", "qmqpd_authorized_clients")
PROTOCOL = 6  # the first that tells of recipients that Postfix itself refuses
TIMEOUTS = ("connect_timeout", "command_timeout", "content_timeout")
SAFE_ACTIONS = ("tempfail", "shutdown")
WRONG_ACTIONS = {
    "accept": UNLIMITED,
    "reject": "a milter that is down then refuses mail for good",
    "quarantine": "mail then goes to the hold queue unlimited, and waits for an administrator",
}
# Postfix separates by commas and blanks outside braces.
ENTRY = re.compile(r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|[^\s,{}])+")
# A content filter hands its mail in again there; no client of the network can.
LOOPBACK = re.compile(r"(127\.[\d.]+|localhost|\[::1\]):")
SWAPPED = re.compile(r"inet:(\d+)@(.+)")


@dataclass(frozen=True)
class Service:
    """One service of master.cf, with the parameters that it runs with."""

    name: str
    chrooted: bool
    values: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One milter of smtpd_milters, with what is set for it alone."""

    socket: str
    own: Mapping[str, str]


def findings(folder: Path, ours: Endpoint) -> list[Finding]:
    """What is wrong in the configuration directory `folder`. Raises EgressguardError if unreadable."""
    services = read(folder)
    main = folder / "main.cf"
    if not services:
        return [Finding(folder / "master.cf", "smtp/inet", "no smtpd takes mail from the network, so nothing "
                        "is limited; run smtpd there")]
    # What is wrong in main.cf shows in every service; it is said once.
    found = [finding for service in services for finding in _service_findings(folder, main, service, ours)]
    found += [Finding(folder / "master.cf", service.name,
                      f"qmqpd takes mail of {clients} and asks none of smtpd_milters, so nothing is limited "
                      "there; remove the service") for service in read(folder, "qmqpd")
              if (clients := service.values["qmqpd_authorized_clients"])]
    return list(dict.fromkeys(found))


def read(folder: Path, program: str = "smtpd") -> list[Service]:
    """The services of `program` that the network reaches, with their effective parameters."""
    defaults = dict(_pairs(_postconf(folder, "-x", *PARAMETERS)))
    overrides: dict[str, dict[str, str]] = {}
    for name, value in _pairs(_postconf(folder, "-x", "-P")):
        service, _, parameter = name.rpartition("/")
        overrides.setdefault(service, {})[parameter] = value
    found = []
    for line in _postconf(folder, "-M").splitlines():
        fields = line.split()
        if fields[7:8] == [program] and fields[1] in ("inet", "pass") and not LOOPBACK.match(fields[0]):
            key = f"{fields[0]}/{fields[1]}"
            found.append(Service(key, fields[4] == "y", defaults | overrides.get(key, {})))
    return found


def _service_findings(folder: Path, main: Path, service: Service, ours: Endpoint) -> Iterator[Finding]:
    entries = list(map(_entry, ENTRY.findall(service.values["smtpd_milters"])))
    entry = next((e for e in entries if _endpoint(e.socket, service) == ours), None)
    if entry is None:
        yield _missing(main, service, entries, ours)
        return
    yield from _action_findings(main, service, entry)
    yield from _timeout_findings(main, service, entry)
    yield from _protocol_findings(main, service, entry)
    if "no_milters" in re.split(r"[\s,]+", service.values["receive_override_options"]):
        yield Finding(folder / "master.cf", f"{service.name}: receive_override_options",
                      "no_milters: this smtpd asks no milter, so nothing is limited; remove no_milters")
    if service.values["smtpd_proxy_filter"]:
        yield Finding(folder / "master.cf", f"{service.name}: smtpd_proxy_filter",
                      "with a proxy filter the milter never sees the end of a message, so none ever counts; "
                      "set smtpd_milters on the smtpd behind the filter, or use a content_filter instead")
    if maps := service.values["smtpd_milter_maps"]:
        yield Finding(main, f"smtpd_milter_maps ({service.name})",
                      f"{maps}: takes clients away from smtpd_milters, who are not limited then; remove it")
    if not _verifies(service):
        yield Finding(main, f"milter_connect_macros, milter_macro_v ({service.name})",
                      "the milter does not learn at connect that Postfix has verified a host's name, so "
                      "rules by name match nobody; remove both, and mail_name")


def _verifies(service: Service) -> bool:
    """Whether the macro `v`, which the milter reads at connect, says Postfix."""
    return "v" in service.values["milter_connect_macros"].split() \
        and service.values["milter_macro_v"].startswith("Postfix")


def _missing(main: Path, service: Service, entries: list[Entry], ours: Endpoint) -> Finding:
    where = f"smtpd_milters ({service.name})"
    right = postfix_socket(ours)
    swapped = [e.socket for e in entries if (m := SWAPPED.fullmatch(e.socket)) and endpoint_of(m[2], m[1])]
    if swapped:
        return Finding(main, where, f"{swapped[0]} is libmilter's order, and smtpd dies of it; "
                                    f"Postfix writes {right}")
    if entries:
        return Finding(main, where, f"the milter listens on {ours.connection}, but Postfix asks "
                                    f"{names(e.socket for e in entries)}; add {right}")
    if any(_endpoint(e.socket, service) == ours
           for e in map(_entry, ENTRY.findall(service.values["non_smtpd_milters"]))):
        return Finding(main, where, "is empty, and non_smtpd_milters never sees mail from the network, so "
                                    f"nothing is limited; write smtpd_milters = {right}")
    return Finding(main, where, f"is empty, so nothing is limited; write smtpd_milters = {right}")


def _action_findings(main: Path, service: Service, entry: Entry) -> Iterator[Finding]:
    own = entry.own.get("default_action")
    action = (own or service.values["milter_default_action"]) or "nothing"
    if action.split()[0] not in SAFE_ACTIONS:
        why = WRONG_ACTIONS.get(action.split()[0], "is no action that defers")
        where = f"smtpd_milters ({service.name}): default_action" if own else "milter_default_action"
        yield Finding(main, where, f"{action}: {why}; write tempfail")


def _timeout_findings(main: Path, service: Service, entry: Entry) -> Iterator[Finding]:
    values = {f"milter_{name}": entry.own.get(name) or service.values[f"milter_{name}"] for name in TIMEOUTS}
    for text in timeout_texts(values, "2s, 3s and 5s (connect, command, content)"):
        yield Finding(main, f"smtpd_milters ({service.name})", text)


def _protocol_findings(main: Path, service: Service, entry: Entry) -> Iterator[Finding]:
    protocol = entry.own.get("protocol") or service.values["milter_protocol"]
    version = re.match(r"\d+", protocol)
    if version is None or int(version[0]) < PROTOCOL:
        yield Finding(main, f"milter_protocol ({service.name})",
                      f"{protocol or 'nothing'}: the milter is not told which recipients Postfix refuses, so "
                      f"refused_recipients limits nobody; write {PROTOCOL}")


def postfix_socket(endpoint: Endpoint) -> str:
    """How Postfix writes it: the host before the port."""
    if endpoint.path is not None:
        return f"unix:{endpoint.path}"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"inet:{host}:{endpoint.port}"


def _endpoint(socket: str, service: Service) -> Endpoint | None:
    kind, _, rest = socket.partition(":")
    if kind == "unix":
        below_queue = service.chrooted or not rest.startswith("/")
        return Endpoint(path=Path(f"{service.values['queue_directory']}/{rest}" if below_queue else rest))
    host, _, port = rest.rpartition(":")
    return endpoint_of(host, port) if kind == "inet" else None


def _entry(text: str) -> Entry:
    """`inet:host:port`, or `{ inet:host:port, name=value, { name = value } }`."""
    inside = text.removeprefix("{").removesuffix("}")
    socket, *settings = [word.strip("{} \t") for word in ENTRY.findall(inside)] or [""]
    pairs = (setting.partition("=") for setting in settings)
    return Entry(socket, {name.strip(): value.strip(" {}") for name, _, value in pairs})


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition("=")
        yield name.strip(), value.strip()


def _postconf(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["postconf", "-c", folder, *arguments], text=True,
                              capture_output=True, check=False)
    except OSError as error:
        raise EgressguardError(f"{folder}: running postconf: {error.strerror}; "
                               "is Postfix installed?") from None
    if done.returncode != 0:
        raise EgressguardError(f"{folder}: {done.stderr.strip()}; give Postfix's configuration directory")
    return done.stdout
