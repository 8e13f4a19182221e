"""The exact configuration of the how-to "Protecting against outgoing SPAM", with a site's own addresses.

A client (a web server) sends everything through the relay and keeps what the relay defers; a relay lets
its networks send, and asks egressguard-milter about every message.
"""

from collections.abc import Callable

from egressguard.core.errors import EgressguardError
from egressguard.mta_config import exim, postfix, sendmail
from egressguard.mta_config.part import Part, text
from egressguard.mta_config.site import Site, site

MTAS = ("sendmail", "postfix", "exim")
ROLES = ("client", "relay")

_PARTS: dict[tuple[str, str], Callable[[Site], list[Part]]] = {
    ("sendmail", "client"): sendmail.client,
    ("sendmail", "relay"): sendmail.relay,
    ("postfix", "client"): postfix.client,
    ("postfix", "relay"): postfix.relay,
    ("exim", "client"): exim.client,
}


def parts(mta: str, role: str, values: Site) -> list[Part]:
    """What to write where. Raises EgressguardError for what an MTA cannot be."""
    try:
        return _PARTS[mta, role](values)
    except KeyError:
        raise EgressguardError(f"--mta {mta} --role {role}: Exim has no milter interface, so no limit would "
                               "ever be asked for; make the relay a sendmail or Postfix (Exim can be "
                               "--role client)") from None


__all__ = ["MTAS", "ROLES", "Part", "Site", "parts", "site", "text"]
