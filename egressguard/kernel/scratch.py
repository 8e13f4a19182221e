"""What a rules file should look like in the kernel: it is loaded once into an empty network namespace.

The truth about the rules is the file, so it is asked, and nobody has to remember what was loaded. The
namespace belongs to a child that ends at once; nothing of it is left, and the real ruleset is not touched.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

from egressguard.core.errors import KernelError
from egressguard.kernel import nft
from egressguard.kernel.namespace import answer_elsewhere
from egressguard.kernel.netlink import Netlink
from egressguard.kernel.rules_file import RulesFile
from egressguard.kernel.ruleset import Ruleset, read_ruleset


def expected_ruleset(rules: RulesFile) -> Ruleset:
    """The table that `rules` make. Raises KernelError with the reason they make none."""
    what_for = f"loading {rules} for comparison"
    texts = {str(part): part.own_text() for part in rules.parts()}  # here, where they can be read
    answer = answer_elsewhere(what_for, lambda: _load(rules, texts))
    if not answer.startswith("{"):
        raise KernelError(answer or f"{what_for}: the helper process died")
    found = json.loads(answer)
    return Ruleset(**{**found, "chains": frozenset(found["chains"]), "devices": frozenset(found["devices"])})


def _load(rules: RulesFile, texts: Mapping[str, str]) -> str:
    owner = nft.context()  # of a table that is to have one
    for name, text in texts.items():  # one after the other, so that an error names its file
        nft.apply(text, f"loading {name}", owner)
    netlink = Netlink(rules.table.family)
    found = read_ruleset(netlink)
    netlink.close()
    if found is None:
        raise KernelError(f"rules {rules}: make no table")
    return json.dumps({**asdict(found), "chains": sorted(found.chains), "devices": sorted(found.devices)})
