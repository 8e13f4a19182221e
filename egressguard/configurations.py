"""The configurations that were put in force or on trial, with their rules, as text in the database.

Daemon, commands and supervisor all follow what stands here, so that none of them undoes another's work.
What the file says is taken over by a start, a reload or an apply; unless it was tried and not confirmed.
"""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from egressguard.boot import boot_id
from egressguard.config import Site, site_of
from egressguard.core import trial
from egressguard.core.errors import DatabaseError, EgressguardError, KernelError
from egressguard.core.trial import Version
from egressguard.database import Database

FIXED = ("router", "exchange", "exchange_key", "metrics", "database", "runtime_directory")


@dataclass(frozen=True, slots=True)
class InForce:
    """What should be enforced: a site, and while it is on trial until `ends_s`, the one to return to.

    `number` is None for a site that is not written down yet.
    """

    site: Site
    number: int | None = None
    former: Site | None = None
    ends_s: float = 0.0


class Configurations:
    """What is written down in `database`; `path` is the configuration file, for error messages.

    Methods raise DatabaseError, and EgressguardError for what must not be done.
    """

    def __init__(self, database: Database, path: Path) -> None:
        self._database, self._path, self._boot = database, path, boot_id()
        self._versions: list[Version] = []
        self._sites: dict[int, Site] = {}

    def versions(self) -> list[Version]:
        """Every version that concerns anybody; the last ones read while the database refuses."""
        try:
            found = [Version(*row) for row in self._database.rows(
                "SELECT number, digest, state, boot, ends_s FROM configuration"
                " WHERE state IN ('trial', 'in force', 'refused') ORDER BY number")]
        except DatabaseError:
            if self._versions:
                return self._versions
            raise
        if found != self._versions:
            self._sites = {n: site for n, site in self._sites.items() if n in {v.number for v in found}}
            self._versions = found
            if any(v.state == "trial" for v in found):
                # Read now what a trial's end needs, which must not depend on the disk at that moment.
                for version in found:
                    if version.state != "refused":
                        self._known(version)
        return found

    def version(self, now_s: float) -> Version | None:
        """Which version to enforce now; None before anything was put in force."""
        return trial.in_force(self.versions(), self._boot, now_s)

    def current(self, now_s: float) -> InForce | None:
        """What should be enforced now."""
        version = self.version(now_s)
        if version is None:
            return None
        last = next((v for v in self._versions if v.state == "in force"), None)
        former = self._known(last) if last and version.left_s(self._boot, now_s) else None
        return InForce(self._known(version), version.number, former, version.ends_s)

    def decide(self, site: Site, now_s: float) -> InForce:
        """What a start or reload should enforce, for whom the file says `site`."""
        digest, version = digest_of(site), self.version(now_s)
        if version is not None and version.digest == digest:
            self._sites[version.number] = site
        elif not trial.unconfirmed(self._versions, digest, self._boot, now_s):
            return InForce(site)
        return self.current(now_s) or InForce(site)

    def unconfirmed(self, site: Site, now_s: float) -> str:
        """Why what the file says is not in force; the empty string if nothing forbids it."""
        if not trial.unconfirmed(self.versions(), digest_of(site), self._boot, now_s):
            return ""
        return (f"{self._path} was tried and not confirmed: the configuration before it is in force (change "
                "the file, or put it in force with `egressguard apply`)")

    def put_in_force(self, site: Site) -> int:
        """Writes `site` down as the one in force; ends a trial."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM configuration WHERE state != 'in force'")
            db.execute("UPDATE configuration SET state = 'former' WHERE state = 'in force'")
            number = _insert(db, site, "in force")
        self._sites[number] = site
        return number

    def take_back(self, number: int) -> None:
        """Undoes `put_in_force` of a site that the kernel has refused."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM configuration WHERE number = ?", (number,))
            db.execute("UPDATE configuration SET state = 'in force' WHERE state = 'former'")

    def propose(self, site: Site, now_s: float) -> int:
        """Writes `site` down, in force for nobody yet. Refuses where there is nothing to return to."""
        self.check_none_on_trial(now_s)
        current = self.current(now_s)
        if current is None:
            raise EgressguardError("no configuration was put in force yet, so there is none to return to: "
                                   "apply without --confirm")
        check_fixed(current.site, site)
        with self._database.transaction() as db:
            return _insert(db, site, "proposed")

    def begin(self, number: int, left_s: float, now_s: float) -> None:
        """Puts a proposed configuration on trial for `left_s`; of two that begin at once, one does."""
        with self._database.transaction() as db:
            standing = [Version(*row) for row in db.execute(
                "SELECT number, digest, state, boot, ends_s FROM configuration WHERE state = 'trial'")]
            if any(v.left_s(self._boot, now_s) for v in standing):
                raise EgressguardError("another configuration has just been put on trial")
            db.execute("DELETE FROM configuration WHERE state IN ('trial', 'refused')")
            db.execute("UPDATE configuration SET state = 'trial', boot = ?, ends_s = ? WHERE number = ?",
                       (self._boot, now_s + left_s, number))

    def confirm(self, now_s: float) -> InForce:
        """Puts the configuration on trial in force for good. Raises EgressguardError when it is too late."""
        with self._database.transaction() as db:
            found = db.execute("SELECT number FROM configuration WHERE state = 'trial' AND boot = ? AND"
                               " ends_s > ?", (self._boot, now_s)).fetchone()
            if found is None:
                raise EgressguardError("no configuration is on trial: there is nothing to confirm, or it is "
                                       "too late (`egressguard history` tells)")
            db.execute("DELETE FROM configuration WHERE state IN ('former', 'refused')")
            db.execute("UPDATE configuration SET state = 'former' WHERE state = 'in force'")
            db.execute("UPDATE configuration SET state = 'in force', boot = '', ends_s = 0 WHERE number = ?",
                       found)
        current = self.current(now_s)
        if current is None:  # it was put there a moment ago
            raise DatabaseError("the confirmed configuration is gone")
        return current

    def refuse(self, number: int | None = None) -> int | None:
        """Ends the trial of `number`, or whichever goes on; its number, or None if there was none."""
        with self._database.transaction() as db:
            found = db.execute("SELECT number FROM configuration WHERE state IN ('trial', 'proposed') AND"
                               " number = coalesce(?, number)", (number,)).fetchone()
            if found is None:
                return None
            db.execute("UPDATE configuration SET state = 'refused', ends_s = 0"
                       " WHERE number = ? AND state = 'trial'", found)
            db.execute("DELETE FROM configuration WHERE number = ? AND state = 'proposed'", found)
            return int(found[0])

    def state(self, number: int) -> str:
        """The state of a version; empty when it is gone."""
        found = self._database.rows("SELECT state FROM configuration WHERE number = ?", number)
        return str(found[0][0]) if found else ""

    def trial_left_s(self, now_s: float) -> float:
        """How long a trial goes on; 0 when there is none."""
        return max((v.left_s(self._boot, now_s) for v in self.versions()), default=0.0)

    def check_none_on_trial(self, now_s: float) -> None:
        """Raises EgressguardError while a configuration is on trial."""
        left_s = self.trial_left_s(now_s)
        if left_s:
            raise EgressguardError(f"a configuration is on trial for another {left_s:.0f} s: confirm it "
                                   "first, or end it with `egressguard confirm --no`")

    def _known(self, version: Version) -> Site:
        if version.number not in self._sites:
            self._sites[version.number] = self._read(version.number)
        return self._sites[version.number]

    def _read(self, number: int) -> Site:
        """A configuration as it was when it was written down, its rules included."""
        found = self._database.rows("SELECT config, rules, digest FROM configuration WHERE number = ?",
                                    number)
        if not found:
            raise DatabaseError(f"configuration {number} is gone")
        text, rules, digest = found[0]
        site, texts = site_of(text, self._path), json.loads(rules)
        if rules_of(site) == texts:
            return site
        return site_of(text, self._path, _written(Path(site.settings.runtime_directory) / digest, texts))


def _insert(db: sqlite3.Connection, site: Site, state: trial.State) -> int:
    done = db.execute("INSERT INTO configuration (digest, config, rules, state, boot, ends_s)"
                      " VALUES (?, ?, ?, ?, '', 0)",
                      (digest_of(site), site.text, json.dumps(rules_of(site)), state))
    return int(done.lastrowid or 0)


def rules_of(site: Site) -> dict[str, str]:
    """Every rules file beside the site's, by name."""
    try:
        return {path.name: path.read_text("utf-8") for path in sorted(site.rules.parent.glob("*.nft"))}
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(f"rules {site.rules.parent}: cannot be read: {error}") from error


def digest_of(site: Site) -> str:
    """Names a configuration by its text and its rules' text."""
    return hashlib.sha256(json.dumps([site.text, rules_of(site)]).encode()).hexdigest()


def check_fixed(before: Site, after: Site) -> None:
    """Raises EgressguardError when `after` changes what cannot change while egressguard runs."""
    for key in FIXED:
        if getattr(after.settings, key) != getattr(before.settings, key):
            raise EgressguardError(f"{key} cannot change while egressguard runs: restart it")


def _written(folder: Path, texts: dict[str, str]) -> Path:
    """Former rules as files again."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name, text in texts.items():
            part = folder / f".{Path(name).name}"
            part.write_text(text, "utf-8")
            part.replace(folder / Path(name).name)
    except OSError as error:
        raise KernelError(f"writing former rules: {error}") from error
    return folder
