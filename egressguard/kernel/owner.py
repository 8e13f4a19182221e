"""Whether this machine can give a table an owner that survives its own death, found out by trying it.

An owned table can be changed by the owner's netlink socket alone, and `flush ruleset` leaves it out. Without
the flag `persist` it would go with that socket, so a killed daemon would open the port: then it is not used.
Linux 6.9 and nftables 1.1.0 know both flags.
"""

from functools import cache

from egressguard.core.errors import KernelError
from egressguard.core.ruleset import TABLE
from egressguard.kernel import nft
from egressguard.kernel.namespace import answer_elsewhere
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.ruleset import read_ruleset

FLAGS = "owner, persist"
KEPT = "persist"  # what is left of them without an owner, and cannot be taken away
OWNED_TABLE = f"table inet {TABLE} {{ flags {FLAGS}; }}"


@cache
def why_not() -> str:
    """Why a table can have no owner here; empty when it can. Tried once, in an empty network namespace."""
    answer = answer_elsewhere("trying whether a table can have an owner", _tried)
    return "" if answer == "yes" else answer or "the process that tried it died"


def _tried() -> str:
    context = nft.context()
    try:
        nft.apply(OWNED_TABLE, "", context)
    except KernelError as error:
        return f"it takes Linux 6.9 and nftables 1.1.0{error}"
    netlink = Netlink("inet")
    while_it_lives = read_ruleset(netlink)
    del context
    afterwards = read_ruleset(netlink)
    if while_it_lives is None or not while_it_lives.owned:
        return "the kernel gives the table no owner"
    if afterwards is None or afterwards.owned:
        return "the table does not survive its owner"
    return "yes"
