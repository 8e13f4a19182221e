"""Elements that somebody has put into sets which only packets write: those with a lifetime of their own.

The kernel names an element's timeout only where it differs from its set's, and what a packet adds has its
set's. So whatever names one was put there, and would stay: it refuses a host in silence, takes the place of
others, or hides what is new. What was put there with the set's own timeout ends as a packet's does.
"""

import struct
from collections.abc import Iterator

from egressguard.core.plan import Change, Changes
from egressguard.core.ruleset import Element, Fields
from egressguard.core.tables import Specs
from egressguard.kernel.fields import decoder
from egressguard.kernel.netlink import Netlink, NoSuchEntry, attributes
from egressguard.kernel.sets import ELEM_KEY, ELEM_TIMEOUT, read_payloads, value_of

_NAMED = struct.pack("=HH", 12, ELEM_TIMEOUT)  # how such an attribute begins


def read_planted(netlink: Netlink, written: Specs) -> Changes:
    """What would remove such elements from the sets that packets have `written`."""
    found = ((name, tuple(sorted(_planted(netlink, name, fields)))) for name, fields in written.items())
    return tuple(Change(name, removed=elements) for name, elements in found if elements)


def _planted(netlink: Netlink, name: str, fields: Fields) -> Iterator[Element]:
    decode = decoder(name, fields)
    for element in _suspicious(netlink, name):
        attribute_of = dict(attributes(element))
        if ELEM_TIMEOUT in attribute_of:
            key = value_of(attribute_of[ELEM_KEY])
            yield decode(key, key)


def _suspicious(netlink: Netlink, name: str) -> Iterator[memoryview]:
    """The elements of those parts of a set in which one may name its timeout: a flood fills these sets with
    tens of thousands, which are not to be taken apart one by one.
    """
    try:
        for payload in read_payloads(netlink, name):
            if _NAMED in bytes(payload):
                yield from (element for _, element in attributes(payload))
    except NoSuchEntry:
        return
