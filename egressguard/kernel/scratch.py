"""What a rules file should look like in the kernel: it is loaded once into an empty network namespace.

The truth about the rules is the file, so it is asked, and nobody has to remember what was loaded. The
namespace belongs to a child that ends at once; nothing of it is left, and the real ruleset is not touched.
"""

import json
import os
from dataclasses import asdict

from egressguard.core.errors import EgressguardError, KernelError
from egressguard.kernel import nft
from egressguard.kernel.namespace import unshare
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.rules_file import RulesFile
from egressguard.kernel.ruleset import Ruleset, read_ruleset


def expected_ruleset(rules: RulesFile) -> Ruleset:
    """The table that `rules` make. Raises KernelError with the reason they make none."""
    text = rules.text()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(writer, rules, text)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer.startswith("{"):
        raise KernelError(answer or f"loading {rules} for comparison: the helper process died")
    found = json.loads(answer)
    return Ruleset(**{**found, "chains": frozenset(found["chains"]), "devices": frozenset(found["devices"])})


def _child(writer: int, rules: RulesFile, text: str) -> None:
    """Never returns: nothing of the parent's clean-up may run twice."""
    try:
        answer = _load(rules, text)
    except EgressguardError as error:
        answer = str(error)
    except BaseException as error:
        answer = f"loading {rules} for comparison: {error!r}"
    try:
        os.write(writer, answer.encode()[:60_000])
    finally:
        os._exit(0)


def _load(rules: RulesFile, text: str) -> str:
    unshare("comparing the rules")
    nft.apply(text, f"loading {rules}")
    netlink = Netlink(rules.table.family)
    found = read_ruleset(netlink)
    netlink.close()
    if found is None:
        raise KernelError(f"rules {rules}: make no table")
    return json.dumps({**asdict(found), "chains": sorted(found.chains), "devices": sorted(found.devices)})
