"""sendmail: the lines of sendmail.cf that say which filters are asked, and what happens without them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard.core.errors import EgressguardError
from egressguard_milter.endpoint import Endpoint, parse_endpoint
from egressguard_milter.mta_check import SLOW_S, UNLIMITED, Finding, endpoint_of, names, seconds

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
        lines = file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise EgressguardError(f"{file}: {error.strerror}; give sendmail's sendmail.cf") from None
    filters = [Filter(m[1], _equates(m[2], ",")) for line in lines if (m := FILTER.fullmatch(line.strip()))]
    options = [(m[1], m[2]) for line in lines if (m := OPTION.fullmatch(line.strip()))]
    return list(_findings(file, filters, options, ours))


def _findings(file: Path, filters: list[Filter], options: list[tuple[str, str]], ours: Endpoint
              ) -> Iterator[Finding]:
    found = next((f for f in filters if _endpoint(f.socket) == ours), None)
    if found is None:
        yield _missing(file, filters, ours)
        return
    where = f"X{found.name}"
    if not _listed(found.name, dict(options).get("InputMailFilters", "")):
        yield Finding(file, "InputMailFilters", f"{found.name} is defined and never asked, so nothing is "
                                                "limited; write INPUT_MAIL_FILTER in place of MAIL_FILTER")
    for name, value in options:
        # A daemon's own list replaces the general one.
        own = _equates(value, ",") if name == "DaemonPortOptions" else {}
        listed = own.get("InputMailFilters", own.get("I"))
        if listed is not None and not _listed(found.name, listed):
            daemon = own.get("Name", own.get("N", value))
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
    flag = found.equates.get("F", "")
    if not flag:
        yield Finding(file, f"{where}: F", f"is missing: {UNLIMITED}; write F=T")
    elif "R" in flag:
        yield Finding(file, f"{where}: F", "R: a milter that is down then refuses mail for good; write F=T")


def _timeout_findings(file: Path, where: str, found: Filter) -> Iterator[Finding]:
    values = DEFAULT_TIMEOUTS | {k.strip(): v for k, _, v in
                                 (item.partition(":") for item in found.equates.get("T", "").split(";")) if v}
    long = {name: value for name, value in values.items() if seconds(value.strip()) >= SLOW_S}
    if long:
        shown = names(f"{name} is {value}" for name, value in long.items())
        yield Finding(file, f"{where}: T", f"a stalled milter holds every client: {shown}; "
                                           f"write {RIGHT_TIMEOUTS}")


def _listed(name: str, value: str) -> bool:
    return name in re.split(r"[\s,;]+", value)


def _endpoint(socket: str) -> Endpoint | None:
    try:
        return parse_endpoint(socket)
    except ValueError:
        return None


def _equates(text: str, separator: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(separator))
    return {name.strip(): value.strip() for name, _, value in pairs}
