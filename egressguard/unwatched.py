"""What somebody has done to a table while no daemon ran, told by what stood before: once, at the start."""

from egressguard.config import Site
from egressguard.core import wanted
from egressguard.core.exposure import EVERYTHING, Deviation, loose
from egressguard.core.plan import Changes
from egressguard.core.tables import ROUTER
from egressguard.kernel.rules_file import rules_of
from egressguard.upkeep import Upkeep

COMING_AND_GOING = ("own_cgroup", "own_mac", "any_mac")  # with what they name, without anybody's doing wrong


def done_to(kept: Upkeep, now_s: float, former: Site | None) -> Deviation | None:
    """What was done to a table that is not loaded yet. `former` is what was enforced; without it nobody can
    say which elements are somebody else's. Raises KernelError.
    """
    stood = kept.last_good.fingerprint(kept.table.family) if kept.last_good is not None else ""
    found = kept.rules.found()
    if found is None:
        gone = kept.table is ROUTER or bool(stood)
        return Deviation("the table was gone when the daemon started", EVERYTHING) if gone else None
    if kept.rules.older(found):
        return None
    # A command may have loaded what the file says now; an upgrade brings others than those that stood,
    # and other elements.
    known = {stood, kept.kernel.expected(kept.rules.file()).fingerprint}
    if stood and (found.dormant or found.fingerprint not in known):
        return Deviation("the table was edited while no daemon ran", EVERYTHING)
    same = former is not None and found.fingerprint == _enforced(kept, former)
    changes = _others_elements(kept, now_s, former) if former is not None and same else ()
    return Deviation("set elements were changed while no daemon ran", loose(changes)) if changes else None


def _enforced(kept: Upkeep, former: Site) -> str:
    """What this version makes of the `former` configuration's rules; empty where it asks for none."""
    if kept.table not in wanted.tables(former.settings):
        return ""
    return kept.kernel.expected(rules_of(former.settings, former.rules, kept.table)).fingerprint


def _others_elements(kept: Upkeep, now_s: float, former: Site) -> Changes:
    """What lets more through than `former` and the orders; what comes and goes by itself is left out."""
    changes = kept.desired.differing_from(former, now_s)
    return tuple(c for c in changes if c.set_name not in COMING_AND_GOING and loose((c,)))
