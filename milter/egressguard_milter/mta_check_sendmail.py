"""sendmail: the lines of sendmail.cf that say which filters are asked, and what happens without them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard.core.errors import EgressguardError
from egressguard_milter.endpoint import Endpoint, parse_endpoint
from egressguard_milter.mta_check import UNLIMITED, Finding, endpoint_of, names, timeout_texts

FILTER = re.compile(r"X([^,\s]+)\s*,\s*(.*)")
OPTION = re.compile(r"O\s*([A-Za-z]+)\s*=\s*(.*)")
SWAPPED = re.compile(r"inet6?:(.+):(\d+)")
# libmilter's defaults, for what T= does not name.
DEFAULT_TIMEOUTS = {"C": "5m", "S": "10s", "R": "10s", "E": "5m"}
RIGHT_TIMEOUTS = "T=C:2s;S:3s;R:3s;E:5s"


@dataclass(frozen=True)
class Filter:
    """An `X` line: the filter's name and its equates such as S=, F=, T=."""

    name: str
    equates: Mapping[str, str]

    @property
    def socket(self) -> str:
        """Where sendmail looks for it."""
        return self.equates.get("S", "")


def findings(file: Path, ours: Endpoint) -> list[Finding]:
    """What is wrong in `file` (or its sendmail.cf). Raises EgressguardError if it is not readable."""
    if file.is_dir():
        file = file / "sendmail.cf"
    try:
        # A line that begins with a blank continues the one before.
        lines = re.sub(r"\n[ \t]+", " ", file.read_text(errors="replace")).splitlines()
    except OSError as error:
        raise EgressguardError(f"{file}: {error.strerror}; give sendmail's sendmail.cf") from None
    filters = [Filter(m[1], _equates(m[2])) for line in lines if (m := FILTER.fullmatch(line.strip()))]
    options = [(m[1].lower(), m[2]) for line in lines if (m := OPTION.fullmatch(line.strip()))]
    return list(_findings(file, filters, options, ours))


def _findings(file: Path, filters: list[Filter], options: list[tuple[str, str]], ours: Endpoint
              ) -> Iterator[Finding]:
    found = next((f for f in filters if _endpoint(f.socket) == ours), None)
    if found is None:
        yield _missing(file, filters, ours)
        return
    where = f"X{found.name}"
    if not _listed(found.name, dict(options).get("inputmailfilters", "")):
        yield Finding(file, "InputMailFilters", f"{found.name} is defined and never asked, so nothing is "
                                                "limited; write INPUT_MAIL_FILTER in place of MAIL_FILTER")
    for name, value in options:
        # A daemon's own list replaces the general one.
        own = _daemon_equates(value) if name == "daemonportoptions" else {}
        listed = own.get("i")
        if listed is not None and not _listed(found.name, listed):
            daemon = own.get("n", value)
            yield Finding(file, "DaemonPortOptions", f"{daemon} has InputMailFilters={listed}, so nothing is "
                                                     f"limited there; add {found.name}")
    yield from _flag_findings(file, where, found)
    yield from _timeout_findings(file, where, found)


def _missing(file: Path, filters: list[Filter], ours: Endpoint) -> Finding:
    right = f"INPUT_MAIL_FILTER(`egressguard', `S={ours.connection}, F=T, {RIGHT_TIMEOUTS}')"
    if not filters:
        return Finding(file, "InputMailFilters", "no filter is defined, so nothing is limited; "
                                                f"write {right}")
    for found in filters:
        swapped = SWAPPED.fullmatch(found.socket)
        if swapped and endpoint_of(swapped[1], swapped[2]):
            return Finding(file, f"X{found.name}: S", f"{found.socket} is Postfix's order; sendmail writes "
                                                      f"S={ours.connection}")
    return Finding(file, names(f"X{f.name}: S" for f in filters),
                   f"the milter listens on {ours.connection}, but sendmail asks "
                   f"{names(f.socket for f in filters)}; write {right}")


def _flag_findings(file: Path, where: str, found: Filter) -> Iterator[Finding]:
    """Of all letters that are written there, only R, T and 4 mean something to sendmail."""
    flag = found.equates.get("F", "")
    if "R" in flag:
        yield Finding(file, f"{where}: F", "R: a milter that is down then refuses mail for good; write F=T")
    elif not {*flag} & {"T", "4"}:
        what = f"{flag} is no flag that defers" if flag else "is missing"
        yield Finding(file, f"{where}: F", f"{what}: {UNLIMITED}; write F=T")


def _timeout_findings(file: Path, where: str, found: Filter) -> Iterator[Finding]:
    pairs = (item.partition(":") for item in found.equates.get("T", "").split(";") if item.strip())
    values = DEFAULT_TIMEOUTS | {name.strip(): value.strip() for name, _, value in pairs}
    for text in timeout_texts(values, RIGHT_TIMEOUTS):
        yield Finding(file, f"{where}: T", text)


def _listed(name: str, value: str) -> bool:
    return name in re.split(r"[\s,;]+", value)


def _endpoint(socket: str) -> Endpoint | None:
    """What names no kind is a path."""
    try:
        return parse_endpoint(socket if ":" in socket else f"unix:{socket}")
    except ValueError:
        return None


def _daemon_equates(text: str) -> dict[str, str]:
    """By their first letters: sendmail reads no more of them, and either case."""
    return {name[:1].lower(): value for name, value in _equates(text).items()}


def _equates(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(","))
    return {name.strip(): value.strip() for name, _, value in pairs}
