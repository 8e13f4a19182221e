"""What other tables' rules do to outgoing SMTP, as findings of the doctor."""

from collections.abc import Iterator

from egressguard.core.finding import Finding, off, weak
from egressguard.core.foreign_rules import PORT, Rule
from egressguard.core.surroundings import Surroundings

PROXY = ("redirect", "a program here takes the connection, and connects to the outside itself",
         "remove it, or judge this machine's own connections with own.guard")
# Verb → name of the finding, why it matters, what would be right.
WEAKENING = {
    "redirect": PROXY, "tproxy": PROXY,
    "dup": ("copied", "the copy goes to its gateway without meeting the forward hook",
            "remove it, or except TCP port 25 from it"),
    "fwd": ("forwarded below", "packets go from interface to interface below the forward hook",
            "remove it from inside interfaces"),
    "mangle": ("port rewritten", "a packet may pass under one port and leave under another",
               "remove it, or limit it to packets from outside (iifname)"),
    "notrack": ("notrack", "without a connection nothing can be cut when a permission ends",
                "except TCP port 25 from it"),
    "xt": ("unknown target", "doctor does not know what it does with a packet",
           "make sure that it changes neither port nor path, or except TCP port 25 from it"),
}


def other_tables_rules(seen: Surroundings) -> Iterator[Finding]:
    """A finding for each rule that changes port or path of outgoing SMTP, or stops it uncounted."""
    for rule in seen.foreign.rules:
        what = f"{rule.verb} in {rule.place} ({rule.hook} {rule.priority}): {rule.text}"[:300]
        if "target" in rule.hidden:
            what += "; nft tells no more of iptables' own part: read `iptables-nft-save`"
        if rule.verb == "dnat":
            yield from _translated(rule, what)
        elif rule.verb in WEAKENING:
            name, why, right = WEAKENING[rule.verb]
            yield weak(name, what, why, right)
        elif rule.verb in ("drop", "reject") and rule.exact and rule.early:
            yield weak("dropped early", what, "attempts end there and are not counted, so nobody is judged",
                       "leave port 25 to egressguard: remove it, or place it after priority -10")


def _translated(rule: Rule, what: str) -> Iterator[Finding]:
    """The port that a target of iptables puts is unknown: the worst is said where all the rest is certain."""
    moved = rule.port is not None and rule.port != PORT
    hidden = "target" in rule.hidden
    if moved or rule.exact or hidden:
        make = off if moved or (rule.exact and rule.hidden == {"target"}) else weak
        yield make("redirect", what, "after it the packet goes to another port or host than the rules judge",
                   "limit it to packets from outside (iifname), or to this machine's addresses")
