"""Whether this machine can give a table an owner that survives its own death, found out by trying it.

An owned table can be changed by the owner's netlink socket alone, and `flush ruleset` leaves it out. Without
the flag `persist` it would go with that socket, so a killed daemon would open the port: then it is not used.
Linux 6.9 and nftables 1.1.0 know both flags.
"""

import os
from functools import cache

from egressguard.core.errors import EgressguardError, KernelError
from egressguard.core.ruleset import TABLE
from egressguard.kernel import nft
from egressguard.kernel.namespace import unshare
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.ruleset import read_ruleset

FLAGS = "owner, persist"
KEPT = "persist"  # what is left of them without an owner, and cannot be taken away
OWNED_TABLE = f"table inet {TABLE} {{ flags {FLAGS}; }}"


@cache
def why_not() -> str:
    """Why a table can have no owner here; empty when it can. Tried once, in an empty network namespace."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return "" if answer == "yes" else answer or "the process that tried it died"


def _child(writer: int) -> None:
    """Never returns: nothing of the parent's clean-up may run twice."""
    try:
        unshare("trying whether a table can have an owner")
        answer = _tried()
    except EgressguardError as error:
        answer = str(error)
    except BaseException as error:
        answer = repr(error)
    try:
        os.write(writer, answer.encode()[:4000])
    finally:
        os._exit(0)


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
